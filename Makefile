VENV ?= .venv
PYTHON = $(VENV)/bin/python
DEMO = results

.PHONY: demo posterior posterior-foreground forecast mismatch solvers test test-slow test-mutants \
    benchmarks compare clean

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

# sigma(r) of two instruments, cleaned, with all lensing and with 84 % delensing: about twenty
# minutes on two cores, of which each case takes one; d1 s1 only where PySM3's templates can be had
FORECAST = $(DEMO)/forecast
CASES = $(foreach i,echo litebird,$(foreach a,1 0.16,$(FORECAST)/$(i)_$(1)_$(a)/done))
forecast: $(VENV)/.installed
	OMP_NUM_THREADS=1 $(MAKE) --jobs 2 $(call CASES,gaussian)
	-OMP_NUM_THREADS=1 $(MAKE) --jobs 2 $(call CASES,d1+s1)
	$(PYTHON) forecast.py --cases $$(dirname $(FORECAST)/*/done) --out-dir $(FORECAST)

# a case is instrument_foregrounds_lensing
SKY = $(subst _, ,$(notdir $(@D)))
SKY_FLAGS = --instrument $(word 1,$(SKY)) --foregrounds $(subst +, ,$(word 2,$(SKY))) --a-lens $(word 3,$(SKY)) \
    --clean hilc --ilc-weights model --num-test 300
$(FORECAST)/%/done:
	$(PYTHON) data_generation.py $(SKY_FLAGS) --r 0 0.001 --num-samples 1 --out-dir $(@D)
	$(PYTHON) data_generation.py $(SKY_FLAGS) --r-range 0 0.01 --num-samples 500000 --out-dir $(@D)
	$(PYTHON) train.py $(POSTERIOR) --batch-size 512 --data-file $(@D)/$(call RANGE,dl_train) \
	    --cond-file $(@D)/$(call RANGE,dl_train_noisy) --param-file $(@D)/$(call RANGE,r_train) \
	    --epochs 5 --out $(@D)/posterior.pth
	for r in 0 0.001 0-0.01; do \
	    files="--data-file-noisy $(@D)/dl_noisy_r$$r.npy --data-file-gt $(@D)/dl_gt_r$$r.npy" && \
	    if [ $$r = 0-0.01 ]; then parameter="--param-file-gt $(@D)/r_gt_r$$r.npy"; fi && \
	    $(PYTHON) sample.py --data-file-noisy $(@D)/dl_noisy_r$$r.npy --model-checkpoint $(@D)/posterior.pth \
	        --method ode --out-dir $(@D)/run_r$$r && \
	    $(PYTHON) evaluate.py --runs $(@D)/run_r$$r $$files $$parameter --out-dir $(@D)/evaluation_r$$r || exit 1; \
	done
	touch $@

# r on ECHO's cleaned d1 s1 skies by models that were trained on other foregrounds, and on these;
# PYSM_LOCAL_DATA names the folder of the templates
mismatch: D = $(DEMO)/mismatch
mismatch: $(VENV)/.installed
	for sky in gaussian gaussian-ensemble "d1 s1"; do \
	    folder="$(D)/$$(echo $$sky | tr ' ' '+')" && \
	    $(PYTHON) data_generation.py --instrument echo --clean hilc --foregrounds $$sky --r-range 0 0.01 \
	        --num-samples 100000 --num-test 1000 --out-dir "$$folder" && \
	    $(PYTHON) train.py $(POSTERIOR) --data-file "$$folder/$(call RANGE,dl_train)" \
	        --cond-file "$$folder/$(call RANGE,dl_train_noisy)" --param-file "$$folder/$(call RANGE,r_train)" \
	        --epochs 20 --out "$$folder/posterior.pth" || exit 1; \
	done
	$(PYTHON) data_generation.py --instrument echo --clean hilc --foregrounds d1 s1 --r 0 --num-samples 1 \
	    --num-test 300 --out-dir $(D)/d1+s1
	for r in 0 0-0.01; do \
	    for sky in gaussian gaussian-ensemble d1+s1; do \
	        $(PYTHON) sample.py --data-file-noisy $(D)/d1+s1/dl_noisy_r$$r.npy --method ode \
	            --model-checkpoint $(D)/$$sky/posterior.pth --out-dir $(D)/r$$r/trained_on_$$sky || exit 1; \
	    done; \
	    if [ $$r = 0-0.01 ]; then parameter="--param-file-gt $(D)/d1+s1/$(call RANGE,r_gt)"; fi; \
	    $(PYTHON) evaluate.py --runs $(D)/r$$r/trained_on_* --data-file-noisy $(D)/d1+s1/dl_noisy_r$$r.npy \
	        --data-file-gt $(D)/d1+s1/dl_gt_r$$r.npy $$parameter --out-dir $(D)/evaluation_r$$r || exit 1; \
	done

# quality against evaluations for every solver: exact scores, then the networks of make posterior
solvers: D = $(DEMO)
solvers: $(VENV)/.installed
	$(PYTHON) -m benchmarks.quality --out-dir $(D)/solvers
	$(PYTHON) -m benchmarks.quality --model-checkpoint $(D)/VE.pth --out-dir $(D)/solvers/VE
	$(PYTHON) -m benchmarks.quality --model-checkpoint $(D)/VP.pth --out-dir $(D)/solvers/VP
	$(PYTHON) -m benchmarks.quality --model-checkpoint $(D)/one_r.pth \
	    --data-file-noisy $(D)/data/dl_noisy_r0.001.npy --out-dir $(D)/solvers/one_r

# beside score-models, azula and sbi, which this installs into an environment of its own
compare: $(VENV)/.installed
	test -x $(VENV)-compare/bin/python || python3 -m venv $(VENV)-compare
	$(VENV)-compare/bin/pip install --quiet "$$(grep -o '^torch==[^ ]*' requirements.txt)"
	$(VENV)-compare/bin/pip install --quiet -r requirements.txt
	$(VENV)-compare/bin/pip install --quiet --no-deps -r benchmarks/requirements.txt
	$(VENV)-compare/bin/python -m benchmarks.compare

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
	$(PYTHON) -m benchmarks.overhead
	$(PYTHON) -m benchmarks.machine
	$(PYTHON) -m benchmarks.scale

clean:
	rm -rf $(VENV) $(DEMO)
