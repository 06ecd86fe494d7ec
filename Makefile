# make demo        everything from nothing: environment, synthetic faces, training, slimming, integers, report, and a
#                  real face read by the model that ships (< 10 min)
# make test        lint, types and the tests (< 12 min)
# make test-long   the tests that take more than a minute each
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
DEMO := runs/demo

.PHONY: demo test test-long lint clean

demo: $(VENV)/ready
	$(BIN)/slimfer compress resnet18 --width 0.5 --data synthetic --ratio 0.7 --bits 8 \
		--epochs 8 --finetune-epochs 5 --out $(DEMO) --force
	@echo; echo "A real face, read by the model that ships:"
	$(BIN)/slimfer predict docs/pictures/astronaut.jpg

# Tests side by side, so one thread each, and whole files, which share what they have trained.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/pytest -q -m "not long and not alone" -n auto --maxprocesses 8 --dist loadfile
	$(BIN)/pytest -q -m "alone and not long"

test-long: $(VENV)/ready-dev
	$(BIN)/pytest -q -m long

lint: $(VENV)/ready-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

# torch goes first and by its exact version, so that the build chosen here is the one that stays.
$(VENV)/ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet -c constraints.txt $$(grep '^torch==' constraints.txt)
	$(BIN)/pip install --quiet -c constraints.txt -e '.[train,video]'
	touch $@

# The pip that comes with Python 3.11 cannot install dependency groups, so the list is read from pyproject.toml.
$(VENV)/ready-dev: $(VENV)/ready
	$(BIN)/python -c "import tomllib; print(*tomllib.load(open('pyproject.toml', 'rb'))['dependency-groups']['dev'], sep='\n')" > $(VENV)/dev.txt
	$(BIN)/pip install --quiet -c constraints.txt -r $(VENV)/dev.txt
	touch $@
