# Two commands do everything on a fresh machine:
#   make demo    environment, rendered data, training, evaluation and a report; no GPU, no download beyond packages
#   make test    environment and the whole test suite
# Others:
#   make env     the environment alone, with the package in it as the sources are now
#   make lint    ruff and mypy
#   make clean   removes environment, demo and builds
# Settings: PYTHON (interpreter to build the environment with), VENV (where), DEMO (where the demo writes).

PYTHON ?= python3
VENV ?= .venv
DEMO ?= demo
# Shells other than bash leave the ~/ in DEMO=~/demo as it is, and so would the quotation marks below.
$(foreach name,PYTHON VENV DEMO,$(if $(filter ~/%,$($(name))),\
	$(eval override $(name) := $(patsubst ~/%,$(HOME)/%,$($(name))))))
$(foreach name,PYTHON VENV DEMO,$(if $(strip $($(name))),,$(error $(name) is empty; leave it out, or name one)))
$(if $(word 2,$(VENV)),$(error VENV is "$(VENV)"; make needs a path without spaces))
# A sourced ROS 2 would mix with the one that the environment gets from wheels: other libraries, often another Python.
ifneq ($(AMENT_PREFIX_PATH),)
unexport AMENT_PREFIX_PATH CMAKE_PREFIX_PATH COLCON_PREFIX_PATH LD_LIBRARY_PATH PYTHONPATH ROS_DISTRO RMW_IMPLEMENTATION
endif
PIP_INSTALL := $(VENV)/bin/python -m pip install --quiet --disable-pip-version-check
PY := $(VENV)/bin/python

.PHONY: demo test lint env interpreter help clean

help:
	@sed -n '2,8p' Makefile | cut -c3-

env: interpreter $(VENV)/.copied

# Ends where the interpreter that the environment was built with has gone, as after an upgrade of the system. Warns if
# PYTHON is given, but the environment that exists was built with another one.
WHICH := import os, sys; print(sys.version.split()[0], "in", os.path.realpath(sys.base_prefix))
interpreter:
	@test ! -e $(VENV)/.installed || test -x $(PY) || { echo "$(PY) leads nowhere: the Python that $(VENV) was built" \
		"with is gone; remove $(VENV), and make it again" >&2; exit 2; }
ifneq ($(origin PYTHON),file)
	@has=$$($(PY) -c '$(WHICH)' 2>/dev/null); [ -z "$$has" ] || \
		[ "$$has" = "$$($(PYTHON) -c '$(WHICH)' 2>/dev/null)" ] || \
		echo "PYTHON=$(PYTHON) is not used: $(VENV) is there already, with Python $$has;" \
		"remove it, or name another place: VENV=..." >&2
endif

# A Python started in the checkout imports the package from there; started elsewhere, it imports the environment's copy.
# When a source changes, only that copy is refreshed, without pip and without building the messages again. Folders are
# among the prerequisites because the time of a folder changes when a file in it is deleted.
$(VENV)/.copied: $(VENV)/.installed scripts/refresh_copy.py \
		$(shell find mmcl_core mmcl_ros config launch scripts -name __pycache__ -prune -o -print 2>/dev/null)
	@$(PY) -I scripts/refresh_copy.py
	@touch $@

$(VENV)/.installed: pyproject.toml setup.py package.xml CMakeLists.txt scripts/ros-kilted.txt \
		$(wildcard cmake/*.cmake msg/*.msg srv/*.srv)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 10))' || \
		{ echo "Python 3.10 or newer is needed; name one: make PYTHON=python3.11 ..." >&2; exit 2; }
	@test -e $(VENV) || { mkdir -p $(VENV) && touch $(VENV)/.made_by_make; }
	{ test -x $(PY) && $(PY) -m pip --version >/dev/null 2>&1; } || $(PYTHON) -m venv $(VENV)
	@echo "Installing the packages into $(VENV) (PyTorch is large: some minutes)"
	$(PIP_INSTALL) --upgrade pip
	$(PIP_INSTALL) -r scripts/ros-kilted.txt || echo "ROS 2 wheels could not be installed (there are some for" \
		"x86-64 alone; if it was the network: rm $(VENV)/.installed): the core goes without the nodes and their tests"
	$(PIP_INSTALL) '.[test]'
	@test "$$MMCL_ROS" = off || test -d $(VENV)/share/mmcl_ros || test ! -d $(VENV)/share/rosidl_default_generators || \
		echo "The messages of mmcl_ros were not built: that takes a C++ compiler and the headers of Python (apt install" \
		"g++ python3-dev; then: rm $(VENV)/.installed). The core goes without the nodes and their tests" >&2
	@touch $@

demo: env
	PYTHON=$(PY) scripts/demo.sh "$(DEMO)"

test: env
	$(PY) -m pytest

lint: env
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

# An environment that was there before, and folders without the mark of the demonstration, are somebody's own.
clean:
	rm -rf build *.egg-info
	@if [ -e "$(VENV)/.made_by_make" ]; then rm -rf -- "$(VENV)"; \
	elif [ -e "$(VENV)" ]; then echo "$(VENV) stays: it was not made by make env"; fi
	@if [ -e "$(DEMO)/.mmcl_demo" ]; then \
		(cd -- "$(DEMO)" && rm -rf household household.partial run ros .mmcl_demo); rmdir -- "$(DEMO)" 2>/dev/null || true; \
	elif [ -e "$(DEMO)" ]; then echo "$(DEMO) stays: it was not made by make demo"; fi
