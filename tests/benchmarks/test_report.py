"""Tables, the page of results, plots, and what a benchmark says when it cannot measure."""

from __future__ import annotations

import argparse
import asyncio
import json
from xml.etree import ElementTree

import pytest

from benchmarks.__main__ import ORDER, PAGE, main, record
from benchmarks.report import Benchmark, BenchmarkError, Result, Table, numbers
from benchmarks.svg import Chart, Line


def table() -> Table:
    return Table(title="Things", columns=["thing", "size"], rows=[["one", 1.2345], ["another", None]])


def test_a_table_is_markdown_with_its_numbers_on_the_right() -> None:
    assert table().text().splitlines() == [
        "**Things**",
        "",
        "| thing   | size |",
        "|---------|-----:|",
        "| one     | 1.23 |",
        "| another |    - |",
    ]


def benchmark(run: object, *, limit: float = 5) -> Benchmark:
    return Benchmark(name="b", summary="", limit=limit, arguments=lambda parser: None, run=run)  # type: ignore[arg-type]


def test_a_benchmark_prints_its_table_and_one_json_line(capsys: pytest.CaptureFixture[str]) -> None:
    async def run(options: argparse.Namespace) -> Result:
        return Result(rows=[{"thing": "one"}], ratios={"one / other": 1.5}, tables=[table()], notes=["a note"])

    assert benchmark(run).main([]) == 0
    *text, line = capsys.readouterr().out.splitlines()
    assert text == [*table().text().splitlines(), "", "- a note"]
    found = json.loads(line)
    assert found["ratios"] == {"one / other": 1.5}
    assert found["machine"]["cores"] >= 1
    assert benchmark(run).main(["--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == [{"thing": "one"}]


def test_a_benchmark_ends_at_its_limit_and_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    async def run(options: argparse.Namespace) -> Result:
        await asyncio.Event().wait()
        raise AssertionError

    assert benchmark(run).main(["--limit", "0.05"]) == 1
    assert capsys.readouterr().err == "b: not done within 0.05 s, given up\n"


def test_a_benchmark_that_cannot_measure_says_why(capsys: pytest.CaptureFixture[str]) -> None:
    async def run(options: argparse.Namespace) -> Result:
        raise BenchmarkError("the bot did not become ready")

    assert benchmark(run).main([]) == 1
    assert capsys.readouterr().err == "b: the bot did not become ready\n"


def test_the_page_has_a_place_for_each_benchmark_and_takes_its_results() -> None:
    page = PAGE.read_text(encoding="utf-8")
    machine = {"cores": 2, "processor": "P", "system": "S", "python": "3", "discord.py": "2"}
    line = {"benchmark": "x", "parameters": {"rates": [1, 2], "no_npm": False, "all": True, "only": ""}, "seconds": 3.2}
    line["machine"] = machine | {"load_before": 0.1, "load_after": 0.2}
    for name in ORDER:
        changed = record(page, name, f"the table of {name}\n{json.dumps(line | {'benchmark': name})}\n")
        assert f"the table of {name}\n\n`python -m benchmarks.{name} --rates 1,2 --all`: 3 s on 2 cores" in changed
        assert record(changed, name, f"other\n{json.dumps(line)}").count(f"{name}: end") == 1
    with pytest.raises(ValueError, match="no place for y"):
        record(page, "y", f"t\n{json.dumps(line)}")


def test_an_unknown_benchmark_is_a_usage_error(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["nothing"])
    assert ended.value.code == 2
    assert "no such benchmark: nothing" in capsys.readouterr().err


def test_numbers_are_read_from_a_list() -> None:
    assert numbers("1,16") == [1, 16]


@pytest.mark.parametrize("points", [[(0.0, 1.0), (2.0, 5.0)], [(1.0, 1.0)], []])
def test_a_chart_is_well_formed_also_with_few_points(points: list[tuple[float, float]]) -> None:
    lines = [Line(name="a < b", points=points), Line(name="dots", points=points, dots=True)]
    text = Chart(title="T & t", x="s", y="ms", lines=lines, marks=[("switch", 0.0)]).svg()
    root = ElementTree.fromstring(text)
    assert {"T & t", "a < b", "switch"} <= {element.text for element in root.iter() if element.text}
