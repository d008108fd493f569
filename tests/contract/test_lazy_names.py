"""A package whose names are loaded on first use has no submodule of such a name.

Importing that submodule would bind it as the package's attribute, in the place of the function.
"""

from __future__ import annotations

from pathlib import Path

import pytest

import dslm
import evenkeel
import trainer_agent


@pytest.mark.parametrize("package", [dslm, evenkeel, trainer_agent], ids=lambda p: p.__name__)
def test_no_public_name_is_a_submodule(package) -> None:
    folder = Path(package.__file__).parent
    submodules = {path.stem for path in folder.iterdir() if path.suffix == ".py" or path.is_dir()}

    assert not submodules & set(package.__all__)
