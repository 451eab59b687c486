# hwloop: `make help` lists the targets. `make demo` and `make test` need nothing but this checkout, root and Debian.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMPS := .stamps
# What the tests note down, for the tables that are made of it.
DOORS := $(CURDIR)/build/doors.jsonl
FAULTS := $(CURDIR)/build/faults.jsonl
ASAN := $(CURDIR)/build/asan
TSAN := $(CURDIR)/build/tsan
SECONDS ?= 60
SIGNALS := --deselect=tests/unit/mmio/test_gone.py::test_an_access_that_is_not_ours_ends_the_process_as_ever \
    --deselect=tests/unit/cython_ring/test_doorbell.py::test_with_registers_that_took_the_signal_in_turns_each_gets_its_own_and_others_end_the_process
NOTES := HWLOOP_DOORS=$(DOORS) HWLOOP_FAULTS=$(FAULTS)
# Tests side by side. A guest takes up to two processors and 2 GiB, so of those there are two at a time.
JOBS ?= $(shell nproc)

# Each with its reason:
#   python3-dev gcc libc6-dev   compile the extensions, for this machine and for the guest
#   python3-venv                the virtual environment in .venv
#   qemu-system-x86             the test VM; brings qemu-storage-daemon too (in qemu-system-common), for vhost-user
#   qemu-system-arm             the test VM that is an ARM machine (--machine virt)
#   gcc-aarch64-linux-gnu       compiles the extensions for it
#   mmdebstrap                  unpacks the guest's root from Debian packages, running nothing of it
#   kmod                        depmod for the guest's kernel modules
#   libudev1                    what pyudev calls
#   git                         tells which files of the checkout go into the guest
#   e2fsprogs                   makes the file system that a test reads through `disk.raw`
#   valgrind                    counts instructions: a request has a limit, which no load of the machine changes
#   strace                      counts system calls: a look at a queue makes none
#   qemu-utils                  qemu-img and qemu-io, clients of our NBD server in its tests
#   libnbd-bin fio              more of them: nbdcopy, nbdinfo; fio verifies what it wrote
#   nbdkit nbdkit-plugin-python runs our script for it
PACKAGES := python3 python3-dev python3-venv gcc libc6-dev qemu-system-x86 qemu-system-arm gcc-aarch64-linux-gnu \
    mmdebstrap kmod libudev1 git e2fsprogs valgrind strace qemu-utils libnbd-bin fio nbdkit nbdkit-plugin-python
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)

.DEFAULT_GOAL := help
.PHONY: help setup man docs build check lint types unit asan tsan fuzz fuzz-control soak test tables demo bench clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

setup: $(STAMPS)/venv  ## install system packages, .venv and the extensions; then .venv/bin/hwloop works

$(STAMPS)/packages: Makefile
	@mkdir -p $(STAMPS)
	@missing=$$(for p in $(PACKAGES); do \
	    dpkg-query -W -f='$${db:Status-Status}' $$p 2>/dev/null | grep -qx installed || echo $$p; done); \
	if [ -n "$$missing" ]; then \
	    echo "installing: "$$missing; \
	    $(SUDO) apt-get update -q && \
	    DEBIAN_FRONTEND=noninteractive $(SUDO) apt-get install -y -q --no-install-recommends $$missing; \
	fi
	@touch $@

$(STAMPS)/venv: $(STAMPS)/packages pyproject.toml setup.py
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --disable-pip-version-check 'setuptools>=68' 'cython>=3.0.11'
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-build-isolation -e '.[dev]'
	@touch $@

build: setup  ## compile the extensions in place
	@$(BIN)/python setup.py -q build_ext --inplace

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check -q .

types: build
	$(BIN)/mypy

unit: build
	@mkdir -p build && rm -f $(DOORS) $(FAULTS)
	$(NOTES) $(BIN)/python -m pytest -q -n $(JOBS) -m 'not vm and not qemu' tests/unit tests/contract

check: lint types unit  ## lint, types, and the tests that need no VM: under a minute

# The tests of hostile devices, with a build that is apart from the usual one. Left out: what counts instructions, and what
# is about the signal that the sanitizer takes for itself.
asan: build  ## the tests of hostile devices, on extensions that AddressSanitizer and UBSan watch
	@CFLAGS="-g1 -O1 -fno-omit-frame-pointer -fsanitize=address,undefined -fno-sanitize-recover=undefined" \
	    $(BIN)/python setup.py -q build_py --build-lib $(ASAN) \
	    build_ext --build-lib $(ASAN) --build-temp $(ASAN)-objects --parallel 2
	LD_PRELOAD="$$(gcc -print-file-name=libasan.so) $$(gcc -print-file-name=libubsan.so)" \
	    ASAN_OPTIONS=detect_leaks=0 HWLOOP_SANITIZED=$(ASAN) \
	    $(BIN)/python -m pytest -q -n $(JOBS) -p no:cacheprovider -o "pythonpath=$(ASAN) ." -m 'not vm and not qemu' \
	    --ignore=tests/unit/cython_ring/test_instructions.py \
	    --ignore=tests/unit/hwloop/device/test_blk_queue_costs.py $(SIGNALS) \
	    tests/sanitizer tests/unit/cython_ring tests/unit/mmio tests/unit/hwloop/device tests/contract/test_block_faults.py

# Python itself is not watched, and the kernel may place memory where the sanitizer cannot: hence no randomisation. A race
# that is found ends the tests with status 66.
tsan: build  ## the tests of two threads, on extensions that ThreadSanitizer watches
	@CFLAGS="-g -O1 -fno-omit-frame-pointer -fsanitize=thread" \
	    $(BIN)/python setup.py -q build_py --build-lib $(TSAN) \
	    build_ext --build-lib $(TSAN) --build-temp $(TSAN)-objects --parallel 2
	LD_PRELOAD="$$(gcc -print-file-name=libtsan.so)" TSAN_OPTIONS=exitcode=66:report_thread_leaks=0 \
	    HWLOOP_SANITIZED=$(TSAN) setarch -R \
	    $(BIN)/python -m pytest -q -p no:cacheprovider -o "pythonpath=$(TSAN) ." \
	    tests/sanitizer/test_sanitizer.py::test_the_extensions_in_use_are_those_that_are_watched \
	    tests/sanitizer/test_threads.py tests/unit/cython_ring/test_two_threads.py \
	    tests/unit/hwloop/device/test_thread_a_queue.py

fuzz: build  ## inputs for a device that stores anything anywhere, for SECONDS=60; prints the speed, keeps what fails
	@$(BIN)/python -m tests.fuzz --seconds $(SECONDS)

fuzz-control: build  ## can the fuzzer find anything? It has to find checks that were taken out of a copy, and nothing else
	@for name in not-outstanding too-long nothing; do $(BIN)/python -m tests.fuzz.planted $$name || exit 1; done

soak: SECONDS := 1200
soak: build  ## mixed load with faults over every kind of disk, for SECONDS=1200; nothing must leak
	@$(BIN)/python -m tests.soak --seconds $(SECONDS)

test: check asan  ## everything: check, hostile devices under sanitizers, QEMU's own devices, VMs; then `make tables`
	$(NOTES) $(BIN)/python -m pytest -q -n $(JOBS) -m qemu tests/contract tests/qemu tests/unit/docs
	$(NOTES) $(BIN)/python -m pytest -v -n 2 --dist loadfile --durations=10 tests/vm

tables:  ## write the tables in README.md and docs/faults.md from the last `make test`
	$(BIN)/python -m tests.doors write $(DOORS)
	$(BIN)/python -m tests.faults write $(FAULTS)

demo: build  ## boot a VM, drive a disk in it from user space, and confirm the bytes on the host
	@$(BIN)/python -m hwloop.vm.demo

bench: build  ## measure against libblkio and others, into docs/performance.md; ROWS=null,qsd for some of it
	@$(BIN)/python -m bench $(ROWS)

docs: build  ## write docs/reference from the code; a test compares them
	$(BIN)/python -m tests.documents.reference

man: build  ## write the manual pages to build/man
	$(BIN)/hwloop man --folder build/man

clean:  ## remove what was built; the VM image stays in its cache
	rm -rf $(STAMPS) $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis
	find cython_ring mmio hwloop -name '*.so' -delete
	find cython_ring mmio hwloop -name '*.pyx' | sed 's/pyx$$/c/' | xargs -r rm -f
	find . -name __pycache__ -type d -prune -exec rm -rf {} +
