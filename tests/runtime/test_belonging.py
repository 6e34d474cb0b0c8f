"""Tables that do not belong together, or hold something else than their flag says, are refused."""

import itertools

import numpy as np
import pytest

from runtime import belonging, tables
from runtime.errors import InputError
from runtime.priors import Prior, SignalTemplate
from runtime.records import Contaminants, Record, Sampled, Sky

N_ELL, ROWS = 6, 3
FLAGS = {"--data-file-noisy": "observed BB", "--data-file-gt": "primordial BB"}
TRAINING = {"--data-file": "primordial BB", "--cond-file": "observed BB"}


def template(scale=1.0):
    return SignalTemplate(np.array([0.002, 0.008]), np.full((2, N_ELL), scale * 1e-2))


def prior(scale=1.0, r_range=(0.0, 0.01)):
    content = {"r_nodes": [0.002, 0.008], "dl_per_r": template(scale).dl_per_r.tolist()}
    return Prior.from_json({"r_range": list(r_range), "signal_template": content})


BASE = Record(
    unit="uK^2",
    split="test",
    nside=4,
    seed=0,
    prior=prior(),
    sky=Sky(a_lens=1.0, foregrounds=["none"]),
    contaminants=Contaminants(dl_noise=np.full(N_ELL, 2e-5)),
)
BASE = Record.from_json({**BASE.to_json(), "cosmology": {"tau": 0.0544, "H0": 67.36}, "run": "a"})


def change_json(record, **entries):
    """A record with entries of its JSON changed; None takes one out."""
    content = {**record.to_json(), **entries}
    return Record.from_json({name: value for name, value in content.items() if value is not None})


def table(name, record, rows=ROWS):
    return tables.Table(f"{name}.npy", np.ones((rows, N_ELL)), record)


def pair(flags, entries=None, **changes):
    """Tables of the flags, the last one changed."""
    records = [BASE.replace(quantity=quantity) for quantity in flags.values()]
    records[-1] = change_json(records[-1].replace(**changes), **(entries or {}))
    return {flag: table(flag.strip("-"), r) for flag, r in zip(flags, records, strict=True)}


def noise(scale):
    return Contaminants(dl_noise=scale * np.full(N_ELL, 2e-5))


OTHER_SKIES = {
    "nside": {"nside": 8},
    "seed": {"seed": 1},
    "split": {"split": "train"},
    "r": {"prior": prior(r_range=(0.0, 0.02))},
    "signal_template": {"prior": prior(1.001)},
    "foregrounds": {"sky": Sky(a_lens=1.0, foregrounds=["d1", "s1"])},
    "a_lens": {"sky": Sky(a_lens=0.5, foregrounds=["none"])},
    "dl_noise": {"contaminants": noise(1.001)},
    "cosmology tau": {"entries": {"cosmology": {"tau": 0.0754, "H0": 67.36}}},
    "run": {"entries": {"run": "b"}},
}


@pytest.mark.parametrize(("what", "change"), OTHER_SKIES.items(), ids=OTHER_SKIES)
def test_tables_of_other_skies_are_refused(what, change):
    given = pair(FLAGS, **change)
    with pytest.raises(InputError, match=f"data-file-gt.npy: has {what} .*not of the same skies"):
        belonging.check(given)


def test_tables_of_one_simulation_pass():
    belonging.check(pair(FLAGS))
    belonging.check(pair(FLAGS, {"run": None}))  # an older version
    belonging.check(pair(FLAGS, prior=prior(1 + 1e-9)))
    belonging.check({**pair(FLAGS), "--param-file-gt": None})


def test_rows_are_counted_whatever_is_known():
    for record in (Record(), BASE.replace(quantity="primordial BB")):
        given = pair(FLAGS) | {"--data-file-gt": table("x", record, rows=2)}
        with pytest.raises(InputError, match=r"x\.npy: has 2 rows, .* 3; they must match row"):
            belonging.check(given)


def test_bare_tables_pass():
    belonging.check(pair(FLAGS) | {"--data-file-gt": table("x", Record())})


QUANTITIES = (
    *("primordial BB", "observed BB", "r", "posterior mean BB", "posterior BB", "posterior r"),
    *("posterior standard deviation of BB", "denoised BB", "generated BB", "log-likelihood"),
)


@pytest.mark.parametrize(("flag", "held"), itertools.product(belonging.ROLES, QUANTITIES))
def test_each_flag_takes_what_it_is_for_and_nothing_else(flag, held):
    role = belonging.ROLES[flag]
    given = {flag: table("x", BASE.replace(quantity=held, split=role.split))}
    if held == role.quantity:
        belonging.check(given)
        return
    with pytest.raises(InputError, match=f"{flag} x.npy: holds {held}, needed is {role.quantity}"):
        belonging.check(given)


def test_what_to_do_about_it_is_said():
    x, y = pair(FLAGS).values()
    with pytest.raises(InputError, match="--data-file-gt data-file-noisy.npy does: swap the two"):
        belonging.check({"--data-file-noisy": y, "--data-file-gt": x})
    sampled = Sampled("ode", "model.pth", Prior(), Sky())
    output = table("denoised", Record(quantity="posterior mean BB", sampled=sampled))
    with pytest.raises(InputError, match="is an output of sample.py; give dl_noisy"):
        belonging.check({"--data-file-noisy": output})


@pytest.mark.parametrize("flag", TRAINING)
def test_training_does_not_see_the_test_set(flag):
    given = {flag: table("x", BASE.replace(quantity=TRAINING[flag]))}
    with pytest.raises(InputError, match=f"{flag} x.npy: is of the test set"):
        belonging.check(given)
    train = {k: table(k, t.record.replace(split="train")) for k, t in pair(TRAINING).items()}
    belonging.check(train)


def told(knows_sky=True, entries=None, **changes):
    """[what differs] between a model of BASE and observations that were changed."""
    found = belonging.mismatch(
        BASE, knows_sky, change_json(BASE.replace(**changes), **(entries or {}))
    )
    return [each.what for each in found]


def test_a_model_may_see_other_rows_of_its_sky():
    assert told(seed=1, split="train", entries={"run": "b"}) == []
    assert told(prior=prior(r_range=(0.004, 0.02))) == []
    fixed = Prior(r=0.005, dl_signal=template()(np.array([0.005]))[0])
    assert told(prior=fixed) == []


def test_all_that_shapes_the_signal_is_told():
    for knows_sky in (True, False):
        assert told(knows_sky, **OTHER_SKIES["cosmology tau"]) == ["cosmology tau"]
        (what,) = told(knows_sky, prior=prior(1.01))
        assert what == "a signal at r = 0.005 of"
        fixed = Prior(r=0.004, dl_signal=1.02 * template()(np.array([0.004]))[0])
        assert told(knows_sky, prior=fixed) == ["a signal at r = 0.004 of"]
        assert told(knows_sky, prior=prior(1 + 1e-4)) == []  # as far as templates are good


def test_the_sky_is_compared_with_a_model_that_has_seen_one():
    other = OTHER_SKIES["foregrounds"]
    assert told(**other) == ["foregrounds"] and told(False, **other) == []
    assert told(contaminants=noise(1.1)) == ["dl_noise"]
    assert told(False, contaminants=noise(1.1)) == []
