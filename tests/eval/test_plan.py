"""Plans: each parses, and says what it runs; errors name the line."""

import re

import pytest

from eval import plan
from imcl_tf import presets
from imcl_tf.settings import METHOD_OPTIONS, known_options
from tests import programs

PLANS = {
    "table1", "table2", "table3", "table4", "figure3", "figure4",
    "single_positive", "known_share", "departures",
}  # fmt: skip
# In the paper, sec. 4.2.
METHODS = {
    "logistic", "latent_noise", "cnn_rnn", "lsep", "fast0tag", "wsabie",
    "curriculum", "imcl",
}  # fmt: skip


def dry_run(name, *arguments):
    done = programs.run(
        "eval.run", f"--plan=flags/{name}", "--runs=none", "--dry_run",
        *arguments,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert not (programs.ROOT / "none").exists()
    return done.stdout


def test_these_are_the_plans():
    files = {file.stem for file in (programs.ROOT / "flags").glob("*.cfg")}
    assert files - {*presets.names()} == PLANS


@pytest.mark.parametrize("name", sorted(PLANS))
def test_a_plan_says_what_it_is_and_what_it_runs(name):
    text = (programs.ROOT / "flags" / f"{name}.cfg").read_text()
    header = text.partition("\n--")[0]
    for part in ("Reported: ", "Cost(, not measured)?: ", "Command"):
        assert re.search(f"^# {part}", header, re.MULTILINE)
    assert f"python -m eval.run --plan=flags/{name} --runs=" in header
    listing = dry_run(name)
    rows, columns = text.count("--row="), max(text.count("--column="), 1)
    assert listing.startswith(
        f"{name}: {rows} rows, {columns} columns, 3 seeds"
    )
    assert listing.count("\n  ") == rows * columns


def test_tables_of_methods_have_all_of_the_paper():
    for name in ("table1", "figure3", "figure4"):
        found = set(re.findall(r"--method=(\w+)", dry_run(name)))
        assert found == METHODS <= {*METHOD_OPTIONS}


def test_other_data_and_values_to_choose_from():
    listing = dry_run(
        "table1", "--data=scenes", "--rows=lsep", "--columns=fixed_features",
        "--tune=--learning_rate=0.01|0.1 --epochs=2", "--seeds=4",
    )  # fmt: skip
    assert listing == (
        "table1: 1 rows, 1 columns, 1 seeds\nlsep, fixed_features:\n"
        "  --learning_rate=0.01 --epochs=2 --method=lsep "
        "--regime=fixed_features\n"
        "  --learning_rate=0.1 --epochs=2 --method=lsep "
        "--regime=fixed_features\n"
    )


def refused(*arguments):
    """The one line that eval.run ends with."""
    done = programs.run("eval.run", *arguments)
    assert done.returncode == 1 and "Traceback" not in done.stderr
    (line,) = re.findall("imcl_tf: error: .*", done.stderr)
    return line


def test_plan_and_directory_must_be_given():
    assert "--plan must be given" in refused()
    assert "--runs must be given" in refused("--plan=flags/table1")


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ("--plan=flags/table9", "plan: flags/table9.cfg: no such"),
        ("--plan=flags/scenes", "plan: flags/scenes has no --row"),
        ("--rows=none", "--rows must be of logistic; "),
        ("--columns=x", "--columns must be of end_to_end; fixed_features"),
        ("--tune=--epochs=1|a", "tune: epochs must be a whole number, got 'a'"),
        ("--tune=--seed=1|2", "tune: '--seed=1|2': no such option"),
        ("--search=s.json", "--search has no effect here: --tune="),
        ("--resume", "--resume has no effect here: the same command continues"),
        ("--seed=3", "--seed has no effect here: --seeds lists seeds"),
        ("--seeds=0,00", "must be of whole numbers, each once, got '0,00'"),
        ("--reported=table9", "reported: 'table9' is no key of"),
        ("--runs=README.md", "runs: README.md is no directory"),
        ("--column=c: --method=imcl", "both set --method"),
    ],
)
def test_what_is_refused(argument, words):
    line = refused("--plan=flags/table1", "--runs=x", "--data=scenes", argument)
    assert words in line


def test_a_plan_without_columns_has_none_to_choose():
    line = refused("--plan=flags/table2", "--runs=x", "--columns=x")
    assert "--columns: the plan has none" in line


@pytest.mark.parametrize(
    ("lines", "words"),
    [
        (["imcl"], "expected NAME: --FLAG=VALUE ..., without a comma"),
        ([": --method=imcl"], "expected NAME"),
        (["a: --method='imcl"], "row a: No closing quotation"),
        (["a: --epochs=1 --epochs=2"], "row a: --epochs comes twice"),
        (["a: --method=imcl|logistik"], "row a: method must be one of"),
        (["a: --method=imcl|"], "row a: method must be one of"),
        (["a, b: --method=imcl"], "without a comma"),
        (["a: ", "a: --method=imcl"], "'a' comes twice"),
        (["a: --no_such=1"], "row a: '--no_such=1': no such option"),
        (["a: --lambda_y=1|-1"], "row a: lambda_y must be >= 0, got -1"),
    ],
)
def test_lines_that_are_wrong(lines, words):
    with pytest.raises(ValueError, match=re.escape(words)):
        plan.variants("row", lines, known_options())


def test_lines_and_their_values():
    (first, second) = plan.variants(
        "row",
        [
            "a (b): --method=imcl --lambda_y=0.1|1 --epochs=1|2",
            "c: --noaugment",
        ],
        known_options(),
    )
    assert first.name == "a (b)" and second.flags == {"augment": ("false",)}
    assert plan.trials(first.flags) == [
        {"method": "imcl", "lambda_y": y, "epochs": n}
        for y in ("0.1", "1")
        for n in ("1", "2")
    ]


@pytest.mark.parametrize(
    ("text", "known", "words"),
    [
        ("", (), "must be of whole numbers, each once, got ''"),
        ("0,1,0", (), "must be of whole numbers, each once, got '0,1,0'"),
        ("0,a", (), "must be of whole numbers, got 'a'"),
        (" , ", ("Hill", "SPLC"), "must be of Hill; SPLC, each once"),
        ("Hill,hill", ("Hill", "SPLC"), "of Hill; SPLC, got 'hill'"),
        ("Hill,Hill", ("Hill", "SPLC"), "of Hill; SPLC, each once"),
    ],
)
def test_lists_of_flags(text, known, words):
    with pytest.raises(ValueError, match="^--flag ") as caught:
        plan.listed("flag", text, known)
    assert words in str(caught.value)
    assert plan.listed("flag", " 2,0", ()) == ["2", "0"]
    assert plan.listed("flag", "b, a b", ("a b", "b")) == ["b", "a b"]
