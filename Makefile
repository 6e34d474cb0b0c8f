VENV ?= .venv
PYTHON = $(VENV)/bin/python
DEMO = results

.PHONY: demo test test-slow benchmarks clean

# torch first and alone: its version decides which build pip takes
$(VENV)/.installed: requirements.txt
	test -x $(PYTHON) || python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet "$$(grep -o '^torch==[^ ]*' requirements.txt)"
	$(PYTHON) -m pip install --quiet -r requirements.txt
	touch $@

demo: $(VENV)/.installed
	$(PYTHON) data_generation.py --r 0.001 --foregrounds none --noise-uk-arcmin 1 --out-dir $(DEMO)/data
	$(PYTHON) train.py --data-file $(DEMO)/data/dl_train_r0.001.npy --epochs 30 --out $(DEMO)/model.pth
	$(PYTHON) sample.py --model-checkpoint $(DEMO)/model.pth --method ode --num-steps 25 --out-dir $(DEMO)/prior
	$(PYTHON) sample.py --model-checkpoint $(DEMO)/model.pth --method sde --num-steps 200 \
	    --data-file-noisy $(DEMO)/data/dl_noisy_r0.001.npy --data-file-gt $(DEMO)/data/dl_gt_r0.001.npy \
	    --plot-trajectories --out-dir $(DEMO)/recipe

test: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(PYTHON) -m pytest

test-slow: $(VENV)/.installed
	$(PYTHON) -m pytest -m slow

benchmarks: $(VENV)/.installed
	$(PYTHON) -m benchmarks.draws
	$(PYTHON) -m benchmarks.overhead

clean:
	rm -rf $(VENV) $(DEMO)
