VENV ?= .venv
PYTHON = $(VENV)/bin/python
DEMO = results

.PHONY: demo posterior posterior-foreground test test-slow benchmarks clean

# torch first and alone: its version decides which build pip takes
$(VENV)/.installed: requirements.txt
	test -x $(PYTHON) || python3 -m venv $(VENV)
	$(PYTHON) -m pip install --quiet "$$(grep -o '^torch==[^ ]*' requirements.txt)"
	$(PYTHON) -m pip install --quiet -r requirements.txt
	touch $@

# observations that hold information: no foregrounds, 1 uK-arcmin
CLEAN = --foregrounds none --noise-uk-arcmin 1
# a posterior network: small, on many rows
POSTERIOR = --hidden-dim 128 --num-layers 2 --batch-size 1024 --lr 4e-3
ONE_R = --data-file-noisy $(1)/dl_noisy_r0.001.npy --data-file-gt $(1)/dl_gt_r0.001.npy
RANGE = $(1)_r0-0.01.npy

PAIR = --data-file-noisy $(1)/$(call RANGE,dl_noisy) --data-file-gt $(1)/$(call RANGE,dl_gt)

# the posterior beside the recipe, on the same observations
demo: D = $(DEMO)/demo
demo: $(VENV)/.installed
	$(PYTHON) data_generation.py --r-range 0 0.01 $(CLEAN) --num-samples 200000 --num-test 500 --out-dir $(D)/data
	$(PYTHON) train.py $(POSTERIOR) --data-file $(D)/data/$(call RANGE,dl_train) --epochs 4 --out $(D)/prior.pth
	$(PYTHON) train.py $(POSTERIOR) --data-file $(D)/data/$(call RANGE,dl_train) \
	    --cond-file $(D)/data/$(call RANGE,dl_train_noisy) --param-file $(D)/data/$(call RANGE,r_train) \
	    --epochs 25 --out $(D)/posterior.pth
	$(PYTHON) sample.py $(call PAIR,$(D)/data) --model-checkpoint $(D)/prior.pth --method sde --num-steps 200 \
	    --plot-trajectories --out-dir $(D)/recipe
	$(PYTHON) sample.py $(call PAIR,$(D)/data) --model-checkpoint $(D)/posterior.pth --method ode \
	    --out-dir $(D)/posterior
	$(PYTHON) evaluate.py --runs $(D)/recipe $(D)/posterior $(call PAIR,$(D)/data) \
	    --param-file-gt $(D)/data/$(call RANGE,r_gt) --out-dir $(D)/evaluation

# the measured posteriors of the README: about an hour on two cores
posterior: D = $(DEMO)
posterior: $(VENV)/.installed
	$(PYTHON) data_generation.py --r 0 0.001 $(CLEAN) --num-samples 100000 --num-test 2000 --out-dir $(D)/data
	$(PYTHON) data_generation.py --r-range 0 0.01 $(CLEAN) --num-samples 500000 --num-test 1000 --out-dir $(D)/data
	$(PYTHON) train.py $(POSTERIOR) --data-file $(D)/data/dl_train_r0.001.npy \
	    --cond-file $(D)/data/dl_train_noisy_r0.001.npy --epochs 80 --out $(D)/one_r.pth
	$(PYTHON) train.py $(POSTERIOR) --data-file $(D)/data/$(call RANGE,dl_train) \
	    --cond-file $(D)/data/$(call RANGE,dl_train_noisy) --param-file $(D)/data/$(call RANGE,r_train) \
	    --epochs 36 --out $(D)/joint.pth
	$(PYTHON) sample.py $(call ONE_R,$(D)/data) --model-checkpoint $(D)/one_r.pth --method ode --out-dir $(D)/one_r
	$(PYTHON) sample.py $(call PAIR,$(D)/data) \
	    --model-checkpoint $(D)/joint.pth --method ode --num-draws 256 --out-dir $(D)/joint
	$(PYTHON) sample.py --data-file-noisy $(D)/data/dl_noisy_r0.npy --model-checkpoint $(D)/joint.pth --method ode \
	    --out-dir $(D)/null
	$(PYTHON) data_generation.py --r 0.001 $(CLEAN) --num-test 10 --out-dir $(D)/prior
	for sde in VE VP; do \
	    $(PYTHON) train.py --data-file $(D)/prior/dl_train_r0.001.npy --sde-type $$sde --out $(D)/$$sde.pth && \
	    $(PYTHON) sample.py $(call ONE_R,$(D)/data) --model-checkpoint $(D)/$$sde.pth --method ode --out-dir $(D)/$${sde}_ode && \
	    for method in sde pc; do \
	        $(PYTHON) sample.py $(call ONE_R,$(D)/data) --model-checkpoint $(D)/$$sde.pth --method $$method \
	            --num-steps 200 --out-dir $(D)/$${sde}_$$method || exit 1; \
	    done || exit 1; \
	done
	$(PYTHON) evaluate.py $(call ONE_R,$(D)/data) --out-dir $(D)/evaluation_one_r \
	    --runs $(D)/VE_sde $(D)/VE_ode $(D)/VE_pc $(D)/VP_sde $(D)/VP_ode $(D)/VP_pc $(D)/one_r
	$(PYTHON) evaluate.py --runs $(D)/joint $(call PAIR,$(D)/data) \
	    --param-file-gt $(D)/data/$(call RANGE,r_gt) --out-dir $(D)/evaluation_range
	$(PYTHON) evaluate.py --runs $(D)/null --data-file-noisy $(D)/data/dl_noisy_r0.npy \
	    --data-file-gt $(D)/data/dl_gt_r0.npy --out-dir $(D)/evaluation_null

# the same with d1 s1 as a fixed foreground; PYSM_LOCAL_DATA names the folder of the templates
posterior-foreground: D = $(DEMO)/foreground
posterior-foreground: $(VENV)/.installed
	$(PYTHON) data_generation.py --r 0.001 --foregrounds d1 s1 --foreground-scale 0.001 --noise-uk-arcmin 1 \
	    --num-samples 100000 --num-test 2000 --out-dir $(D)
	$(PYTHON) train.py $(POSTERIOR) --data-file $(D)/dl_train_r0.001.npy \
	    --cond-file $(D)/dl_train_noisy_r0.001.npy --epochs 80 --out $(D)/posterior.pth
	$(PYTHON) sample.py $(call ONE_R,$(D)) --model-checkpoint $(D)/posterior.pth --method ode --out-dir $(D)/posterior
	$(PYTHON) evaluate.py --runs $(D)/posterior $(call ONE_R,$(D)) --out-dir $(D)/evaluation

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
