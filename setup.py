"""Build backend that pyproject.toml names: setuptools, for editable installs only.

The names of the packages (runtime, checks, figures) are too general to be copied into
site-packages; an editable install is a link to the checkout, which can be taken away again.
"""

from setuptools import build_meta, setup

REFUSAL = "bmode-diffusion is run from its checkout and not copied: use  pip install -e .  there"

get_requires_for_build_editable = build_meta.get_requires_for_build_editable
prepare_metadata_for_build_editable = build_meta.prepare_metadata_for_build_editable
build_editable = build_meta.build_editable


def get_requires_for_build_wheel(config_settings=None):
    """The first hook of a plain `pip install .`, before pip fetches anything."""
    raise SystemExit(REFUSAL)


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    """Refused, as above."""
    raise SystemExit(REFUSAL)


def build_sdist(sdist_directory, config_settings=None):
    """Refused, as above."""
    raise SystemExit(REFUSAL)


if __name__ == "__main__":  # setuptools runs this file once more
    setup()
