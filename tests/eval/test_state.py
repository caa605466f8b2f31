"""States of plans: what a later call keeps of an earlier one."""

import json
import threading

import pytest

from eval.state import differing, read, write


def state_of(seeds, digest="a", **settings):
    cells = [
        {"row": row, "column": "", "seed": f"{seed}", "run": f"{row}{seed}",
         "settings": {"method": row} | settings, "logistic": None,
         "chosen": {}, "error": None}
        for seed in seeds
        for row in ("imcl", "lsep")
    ]  # fmt: skip
    return {
        "plan": "p", "title": "P", "reported": "", "dataset": "folder",
        "own_dataset": "folder", "digests": {"labels": digest},
        "cells": cells, "command": f"run {seeds}",
    }  # fmt: skip


def runs_in(place):
    return [cell["run"] for cell in read(place / "p.json")["cells"]]


def test_cells_of_other_seeds_stay(tmp_path):
    write(state_of([2, 10]), tmp_path)
    write(state_of([3, 2]), tmp_path)
    assert runs_in(tmp_path) == [
        "imcl2", "lsep2", "imcl3", "lsep3", "imcl10", "lsep10"
    ]  # fmt: skip
    write(state_of([2, 10]), tmp_path)  # as it was
    assert read(tmp_path / "p.json")["command"] == "run [2, 10] && run [3, 2]"


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (state_of([2], digest="b"), "labels of the data"),
        (state_of([2], epochs="3"), "imcl: --epochs not given, 3"),
    ],
)
def test_but_not_of_other_data_or_settings(tmp_path, caplog, other, words):
    write(state_of([0, 1]), tmp_path)
    write(other, tmp_path)
    write(other, tmp_path)
    assert runs_in(tmp_path) == ["imcl2", "lsep2"]
    assert read(tmp_path / "p.json")["command"] == "run [2]"
    (record,) = caplog.records
    assert words in record.getMessage()


def test_rows_that_one_has_alone_differ_in_nothing():
    one, other = state_of([0]), state_of([1])
    other["cells"] = other["cells"][:1]
    assert differing(one, other) == differing(other, one) == ""


def test_many_processes_with_a_seed_each_lose_nothing(tmp_path):
    ready = threading.Barrier(8)

    def work(seed):
        ready.wait()
        write(state_of([seed]), tmp_path)

    threads = [threading.Thread(target=work, args=[n]) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(runs_in(tmp_path)) == 16


def test_files_of_something_else(tmp_path):
    file = tmp_path / "p.json"
    for other in ([], {"mAP": 1}, {"cells": []}):
        file.write_text(json.dumps(other))
        assert read(file) is None


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (None, "not a whole JSON file"),
        ({"cells": None}, "cells is None"),
        ({"cells": [], "plan": 1}, "plan is 1"),
        ({"cells": []}, "it has no cells"),
        ({"cells": [{}], "command": None}, "command is None"),
        ({"cells": [{}]}, "a cell has no row"),
        ({"run": 3}, "run of a cell is 3"),
        ({"seed": "x"}, "a seed is 'x'"),
    ],
)
def test_damage_is_named(tmp_path, change, words):
    file = tmp_path / "p.json"
    state = state_of([0])
    if change and "cells" in change:
        state |= change
    elif change:
        state["cells"][1] |= change
    file.write_text(json.dumps(state) if change else "{")
    words = rf"p\.json is damaged: {words}.*; remove it and run the plan again"
    for use in (lambda: read(file), lambda: write(state_of([1]), tmp_path)):
        with pytest.raises(ValueError, match=words):
            use()
