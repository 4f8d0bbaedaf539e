# Two commands: `make book` builds the book, `make test` checks everything. Both set up .venv first, once.

PYTHON ?= python3
VENV ?= .venv
# Options for the creation of .venv, such as --system-site-packages (use the torch this machine already has).
VENV_ARGS ?=
# An extra package index, copied from PyTorch's own install page (a CPU-only build of torch).
TORCH_INDEX ?=
export VENV VENV_ARGS TORCH_INDEX

RUN = $(VENV)/bin/python book/_tools

.PHONY: help install book test test-all test-oldest bench run-chapters index mutants lock clean
.DEFAULT_GOAL := help

help:
	@echo "make book          build the book as HTML (_build/html/index.html)"
	@echo "make test          check everything: code, equations, chapters, book, pages in a browser"
	@echo "make test-all      the same and what takes hours: every chapter as Colab runs it, and again byte for byte"
	@echo "make test-oldest   unit tests and chapters with the oldest versions that pyproject.toml admits (Python 3.10, 3.11)"
	@echo "make bench         time the network and the loop beside their peers (benchmarks/README.md);"
	@echo "                   with DATA_ROOT=DATA also train all on MNIST, twenty minutes each"
	@echo "make run-chapters  run every chapter and store its outputs"
	@echo "make index         write book/equations.md and book/errata.md anew from the chapters"
	@echo "make mutants       try wrong versions of the package: is each one noticed?"
	@echo "make mutation      try every small edit of the functions that changed (all of them: an hour)"
	@echo "make lock          write requirements-lock.txt: the exact versions that are installed here"
	@echo "make clean         remove _build (not .venv)"
	@echo
	@echo "Each sets up .venv when it is missing or when its requirements changed. Options:"
	@echo "  PYTHON=python3.12                  another Python (3.10 or newer)"
	@echo "  VENV_ARGS=--system-site-packages   use the torch that is already installed"
	@echo "  TORCH_INDEX=<address>              take torch from there; PyTorch's install page names"
	@echo "                                     the address of its CPU-only builds"

install:
	@$(PYTHON) book/_tools/install.py

book: install
	@$(RUN)/stages.py book

test: install
	@$(RUN)/stages.py test

test-all: install
	@$(RUN)/stages.py test-all

# Not in .venv: with versions of its own. EXCEPT=torch leaves that package at any version.
test-oldest:
	@VENV=$(if $(filter-out .venv,$(VENV)),$(VENV),.venv-oldest) EXCEPT="$(EXCEPT)" $(PYTHON) book/_tools/oldest.py

bench: install
	@$(VENV)/bin/python benchmarks/bench.py $(if $(DATA_ROOT),--data-root $(DATA_ROOT))

run-chapters: install
	@$(RUN)/execute.py

index: install
	@$(RUN)/index.py
	@$(RUN)/errata.py

mutants: install
	@OMP_NUM_THREADS=1 $(VENV)/bin/python tests/mutants.py

mutation: install
	@OMP_NUM_THREADS=1 $(VENV)/bin/python tests/mutation.py --survivors

lock: install
	@$(RUN)/lock.py

clean:
	rm -rf _build
