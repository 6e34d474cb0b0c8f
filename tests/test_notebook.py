"""The notebook runs from top to bottom, here on a tenth of its rows."""

import pathlib

import nbclient
import nbformat

NOTEBOOK = pathlib.Path(__file__).parents[1] / "notebooks" / "explore.ipynb"


def test_the_notebook_runs(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(NOTEBOOK.parents[1]))
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    assert not any(cell.get("outputs") for cell in notebook.cells)  # outputs are not committed
    for cell in notebook.cells:
        for rows in ("4000", "2000"):
            cell.source = cell.source.replace(f"--num-samples {rows}0", f"--num-samples {rows}")
    monkeypatch.setenv("PYTHONPATH", str(NOTEBOOK.parents[1]))
    resources = {"metadata": {"path": str(tmp_path)}}
    nbclient.NotebookClient(notebook, timeout=600, resources=resources).execute()
    printed = "".join(o.get("text", "") for c in notebook.cells for o in c.get("outputs", []))
    assert "95 % upper limit in" in printed
    assert "D_ell: (5, 64, 30), r: (5, 64)" in printed
    assert (tmp_path / "explore" / "evaluation" / "report.json").exists()
    assert (tmp_path / "explore" / "own_map" / "map.png").exists()
