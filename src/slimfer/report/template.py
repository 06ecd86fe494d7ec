"""The templates beside this file: everything that comes from outside is escaped, and a missing value is an error."""

from collections.abc import Mapping
from importlib import resources
from typing import Any

import jinja2


def fill(name: str, content: Mapping[str, Any]) -> str:
    """Return the template `name` filled with `content`."""
    loader = jinja2.FunctionLoader(lambda file: resources.files(__package__).joinpath(file).read_text("utf-8"))
    environment = jinja2.Environment(loader=loader, autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    return environment.get_template(name).render(content)
