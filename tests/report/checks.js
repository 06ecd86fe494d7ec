// What test_browser.py asks of a page.

const openAll = () => document.querySelectorAll("details").forEach(part => { part.open = true; });

const wide = () => [...document.querySelectorAll(".scroll")]
  .filter(box => box.checkVisibility() && box.scrollWidth > box.clientWidth + 40);

// True as soon as the box has been scrolled; scrolling by keys takes some frames.
const moved = box => box.scrollLeft > 0 || new Promise(done => box.addEventListener("scroll", () => done(true)));

// What reaches beyond the width without being in a box that scrolls, and text that leaves its chart.
function outside() {
  const width = document.documentElement.clientWidth, found = [];
  const held = element => {
    for (let box = element.parentElement; box !== document.body; box = box.parentElement) {
      const scrolls = getComputedStyle(box).overflowX === "auto";
      if (scrolls && box.getBoundingClientRect().right <= width + 0.5) return true;
    }
    return false;
  };
  for (const element of document.querySelectorAll("body > :not(.skip), body > :not(.skip) *")) {
    const box = element.getBoundingClientRect();
    const drawn = element.closest("svg");
    if (!box.width || !box.height || (drawn && drawn !== element)) continue;
    if ((box.right > width + 0.5 || box.left < -0.5) && !held(element)) {
      found.push(`${element.tagName} ${element.textContent.slice(0, 60)}`);
    }
  }
  for (const chart of document.querySelectorAll("svg")) {
    const whole = chart.getBoundingClientRect();
    for (const text of chart.querySelectorAll("text")) {
      const box = text.getBoundingClientRect();
      if (box.right > whole.right + 1 || box.left < whole.left - 1) found.push(`chart: ${text.textContent}`);
    }
  }
  return found;
}

// Texts whose contrast against what lies under them is below 4.5 (WCAG 2.2, 1.4.3), and how many were measured.
function faint() {
  const parse = colour => {
    const parts = colour.match(/[\d.]+/g).map(Number);
    return [...parts.slice(0, 3), parts[3] ?? 1];
  };
  const over = (above, below) => [0, 1, 2].map(i => above[i] * above[3] + below[i] * (1 - above[3])).concat(1);
  const linear = value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
  const light = ([red, green, blue]) =>
    0.2126 * linear(red / 255) + 0.7152 * linear(green / 255) + 0.0722 * linear(blue / 255);
  const contrast = (a, b) => (Math.max(light(a), light(b)) + 0.05) / (Math.min(light(a), light(b)) + 0.05);
  const filled = style => {
    const colour = parse(style.fill);
    colour[3] *= style.fillOpacity * style.opacity;
    return colour;
  };
  const ground = element => {
    const layers = [];
    for (let box = element; box; box = box.parentElement) layers.unshift(parse(getComputedStyle(box).backgroundColor));
    return layers.reduce((below, above) => over(above, below), [255, 255, 255, 1]);
  };
  const found = [];
  let count = 0;
  const walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (walk.nextNode()) {
    const element = walk.currentNode.parentElement, range = document.createRange();
    range.selectNodeContents(walk.currentNode);
    const box = range.getBoundingClientRect();
    const told = walk.currentNode.textContent.trim();
    if (!told || !box.width || element.closest("script, option, title, .skip")) continue;
    const chart = element.closest("svg");
    let front = parse(getComputedStyle(element).color), back = ground(chart ? chart.parentElement : element);
    if (chart) {
      front = filled(getComputedStyle(element));
      const under = document.elementsFromPoint(box.left + box.width / 2, box.top + box.height / 2);
      const shapes = under.filter(shape => shape.closest("svg") === chart && shape !== chart && !shape.closest("text"));
      for (const shape of shapes.reverse()) {
        const style = getComputedStyle(shape);
        if (style.fill.startsWith("rgb")) back = over(filled(style), back);
      }
    }
    count++;
    const ratio = contrast(over(front, back), back);
    if (ratio < 4.5) found.push([ratio, told.slice(0, 40)]);
  }
  return {count, found};
}

const focusable = () => [...document.querySelectorAll("a[href], button, select, summary, [tabindex]")]
  .filter(element => element.checkVisibility());

// Where the keyboard is; null outside of everything.
function focused() {
  const element = document.activeElement;
  if (element === document.body) return null;
  const box = element.getBoundingClientRect();
  return {
    name: element.getAttribute("aria-label") || element.textContent.trim(),
    ring: element.matches(":focus-visible") && getComputedStyle(element).outlineStyle !== "none",
    seen: box.bottom > 0 && box.top < innerHeight,
    order: focusable().indexOf(element),
  };
}
