VENV ?= .venv
PYTHON = $(VENV)/bin/python
DEMO = results

.PHONY: demo posterior posterior-foreground own-simulations masked forecast mismatch solvers \
    quick likelihood pretrained test test-slow test-mutants benchmarks compare sbibm clean

# torch first and alone: its version decides which build pip takes
$(VENV)/.installed: requirements.txt
	test -x $(PYTHON) || python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet "$$(grep -o '^torch==[^ ]*' requirements.txt)"
	$(PYTHON) -m pip install --quiet -r requirements.txt
	touch $@

# each says more of itself: $(PYTHON) -m studies.demo --help
quick: $(VENV)/.installed
	$(PYTHON) -m studies.quick --out-dir $(DEMO)/quick

demo: $(VENV)/.installed
	$(PYTHON) -m studies.demo --out-dir $(DEMO)/demo

posterior: $(VENV)/.installed
	$(PYTHON) -m studies.posterior --out-dir $(DEMO)

posterior-foreground: $(VENV)/.installed
	$(PYTHON) -m studies.foreground --out-dir $(DEMO)/foreground

own-simulations: $(VENV)/.installed
	$(PYTHON) -m studies.own_simulations --out-dir $(DEMO)/own_simulations

masked: $(VENV)/.installed
	$(PYTHON) -m studies.masked --out-dir $(DEMO)/masked

forecast: $(VENV)/.installed
	$(PYTHON) -m studies.forecast --out-dir $(DEMO)/forecast

mismatch: $(VENV)/.installed
	$(PYTHON) -m studies.mismatch --out-dir $(DEMO)/mismatch

solvers: $(VENV)/.installed
	$(PYTHON) -m studies.solvers --out-dir $(DEMO)

likelihood: $(VENV)/.installed
	$(PYTHON) -m studies.likelihood --out-dir $(DEMO)/likelihood

# pretrained/prior_nside16.pth, made anew
pretrained: $(VENV)/.installed
	$(PYTHON) -m studies.pretrained --out-dir $(DEMO)/pretrained

# beside score-models, azula and sbi, which this installs into an environment of its own
compare: $(VENV)/.installed
	test -x $(VENV)-compare/bin/python || python3 -m venv $(VENV)-compare
	$(VENV)-compare/bin/pip install --quiet "$$(grep -o '^torch==[^ ]*' requirements.txt)"
	$(VENV)-compare/bin/pip install --quiet -r requirements.txt
	$(VENV)-compare/bin/pip install --quiet --no-deps -r benchmarks/requirements.txt
	$(VENV)-compare/bin/python -m benchmarks.compare

# posteriors of sbibm's tasks beside sbi's NPSE, likewise
sbibm: $(VENV)/.installed
	test -x $(VENV)-sbibm/bin/python || python3 -m venv $(VENV)-sbibm
	$(VENV)-sbibm/bin/pip install --quiet "$$(grep -o '^torch==[^ ]*' requirements.txt)"
	$(VENV)-sbibm/bin/pip install --quiet -r requirements.txt
	$(VENV)-sbibm/bin/pip install --quiet --no-deps -r benchmarks/requirements-sbibm.txt
	OMP_NUM_THREADS=1 $(VENV)-sbibm/bin/python -m benchmarks.sbibm

test: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	OMP_NUM_THREADS=1 $(PYTHON) -m pytest --numprocesses auto --dist worksteal

test-slow: $(VENV)/.installed
	$(PYTHON) -m pytest -m slow

# samplers that are broken on purpose: each must fail a test
test-mutants: $(VENV)/.installed
	$(PYTHON) -m pytest -m mutants

benchmarks: $(VENV)/.installed
	$(PYTHON) -m benchmarks.draws
	$(PYTHON) -m benchmarks.cleaning
	$(PYTHON) -m benchmarks.masked
	$(PYTHON) -m benchmarks.overhead
	$(PYTHON) -m benchmarks.contention
	$(PYTHON) -m benchmarks.machine
	$(PYTHON) -m benchmarks.scale
	$(PYTHON) -m benchmarks.likelihood

clean:
	rm -rf $(VENV) $(DEMO)
