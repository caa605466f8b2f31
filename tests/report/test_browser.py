"""The page in headless Chromium: Debian's `chromium` and `chromium-driver`.

axe.min.js beside this file is axe-core 4.14.1, as npm's package holds it
(Mozilla Public License 2.0, see its first lines; sources:
https://github.com/dequelabs/axe-core).
"""

import io
import shutil
from pathlib import Path

import numpy as np
import pytest

from eval import report
from imcl_tf.data.multi_label_dataset import open_source
from imcl_tf.report import page
from imcl_tf.report.contents import read_run
from imcl_tf.report.page import write_report
from tests.report.made import HOSTILE, write_plan, write_run

AXE = Path(__file__).with_name("axe.min.js")
NAMES = (*HOSTILE, *(f"label {j:03}" for j in range(97)))
WIDTHS = 1280, 400
SCHEMES = "light", "dark"


@pytest.fixture(scope="module")
def browser():
    for program in ("chromium", "chromedriver"):
        if shutil.which(program) is None:
            pytest.skip(f"{program} is not installed")
    webdriver = pytest.importorskip("selenium.webdriver")
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    driver = webdriver.Chrome(options=options, service=service)
    yield driver
    driver.quit()


@pytest.fixture(scope="module")
def place(tmp_path_factory, prepared):
    """A directory with run.html, some of whose images are there, and plan.html.

    Other images have no picture: `prepared` has fewer than the run.
    """
    path = tmp_path_factory.mktemp("pages")
    rng = np.random.default_rng(0)
    data = open_source(prepared)
    warnings = ["the features tell no images apart"]
    write_run(
        path / "run", rng, NAMES, num_images=60, warnings=warnings,
        digests=data.digests(),
    )  # fmt: skip
    write_report([path / "run"], path / "run.html", data)
    write_plan(path / "plan", rng)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page, "_MOST_RUNS", 2)
        report.write([path / "plan"], path / "plan.html")
    return path


@pytest.fixture
def opened(browser, place):
    """Opens a page at a width and in a scheme; then the console is empty."""
    from selenium.webdriver.support.wait import WebDriverWait

    def open_page(name, width=1280, scheme="light"):
        command = browser.execute_cdp_cmd
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        command("Emulation.setEmulatedMedia", {"features": features})
        screen = {
            "width": width, "height": 800, "deviceScaleFactor": 1,
            "mobile": width < 500,
        }  # fmt: skip
        command("Emulation.setDeviceMetricsOverride", screen)
        browser.get((place / name).as_uri())
        # On busy cores the page may be loaded before it is laid out.
        WebDriverWait(browser, 30).until(lambda browser: texts(browser, "h1"))
        return browser

    yield open_page
    assert browser.get_log("browser") == []
    assert browser.execute_script("return window.hit") is None


def select(browser, css):
    return browser.find_elements("css selector", css)


def texts(browser, css):
    """Of what is visible, in one call."""
    return browser.execute_script(
        "return [...document.querySelectorAll(arguments[0])]"
        ".filter(x => x.checkVisibility()).map(x => x.innerText)", css,
    )  # fmt: skip


def press(browser, element, *keys):
    from selenium.webdriver.common.keys import Keys

    browser.execute_script("arguments[0].focus()", element)
    element.send_keys(*(getattr(Keys, key, key) for key in keys))


@pytest.mark.parametrize("name", ["run.html", "plan.html"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("scheme", SCHEMES)
def test_reads_well_everywhere(opened, name, width, scheme):
    """axe-core finds nothing; no sideways scrolling; something is drawn."""
    browser = opened(name, width, scheme)
    if name == "plan.html":
        select(browser, "details.run > summary")[0].click()
    else:
        browser.execute_script(
            "document.querySelector('table.labels tbody button').click()"
        )
    # A phone makes its window as wide as the page, so innerWidth says nothing.
    wide = browser.execute_script("return document.documentElement.scrollWidth")
    assert wide <= width
    from PIL import Image

    shot = Image.open(io.BytesIO(browser.get_screenshot_as_png()))
    pixels = np.asarray(shot.convert("L"), float)
    assert pixels.std() > 5
    assert (np.median(pixels) > 128) == (scheme == "light")
    browser.execute_script(AXE.read_text("utf-8"))
    found = browser.execute_async_script(
        "axe.run({resultTypes: ['violations']})"
        ".then(arguments[0], e => arguments[0](String(e)))"
    )
    wrong = [
        (x["id"], x["nodes"][0]["html"][:200], x["nodes"][0]["failureSummary"])
        for x in found["violations"]
    ]
    assert wrong == []


def test_labels_are_sorted_searched_and_opened_by_the_keyboard(opened):
    browser = opened("run.html")
    names = ".labels tbody th button"
    assert texts(browser, names) == list(NAMES[:25])
    assert texts(browser, ".count") == ["100 of 100 labels"]
    _, head, *_ = select(browser, ".labels thead button")
    for order, sign in (("descending", -1), ("ascending", 1)):
        press(browser, head, "ENTER")
        cell = select(browser, ".labels thead [aria-sort]")
        assert [x.get_attribute("aria-sort") for x in cell] == [order]
        shown = [float(x) for x in texts(browser, ".labels td:nth-child(2)")]
        assert len(shown) == 25 and shown == sorted(
            shown, key=lambda x: sign * x
        )
    search = select(browser, "input[type=search]")[0]
    press(browser, search, "LABEL 00")
    assert len(texts(browser, names)) == 10
    assert texts(browser, ".count") == ["10 of 100 labels"]
    place = texts(browser, names).index("label 003")
    shown = "tr:not([hidden]) th button"
    button = select(browser, f".labels tbody {shown}")[place]
    press(browser, button, "SPACE")
    assert button.get_attribute("aria-expanded") == "true"
    (drawing,) = select(browser, ".detail svg")
    assert "label 003" in drawing.get_attribute("aria-label")
    path = select(browser, ".detail svg .line")[0].get_attribute("d")
    assert path.startswith("M48 ") and path.count("L") > 3
    assert "Present, scored highest" in select(browser, ".detail")[0].text
    press(browser, button, "ENTER")
    assert not select(browser, ".detail")
    search.clear()
    press(browser, search, "</script>")
    assert texts(browser, names) == [HOSTILE[0]]


def test_pictures_are_drawn_and_named(opened):
    browser = opened("run.html")
    shown = browser.execute_script(
        "return [...document.images].map(x => [x.naturalWidth, x.alt])"
    )
    assert len(shown) > 8
    for width, name in shown:
        assert width > 0 and name.endswith(".jpg")
    # A name stands where there is no picture.
    assert any(".jpg" in name for name in texts(browser, ".tile"))


def test_all_labels_are_shown_on_demand(opened):
    browser = opened("run.html")
    # A page of a thousand labels opens at once: few of them are drawn.
    curves = ".labels tbody td:last-child:not(:empty)"
    assert len(select(browser, curves)) == 25
    button = select(browser, "button.all")[0]
    assert button.text == "Show all 100 labels"
    press(browser, button, "ENTER")
    assert len(texts(browser, ".labels tbody th button")) == 100
    assert len(select(browser, curves)) == 100
    # The focus is where the new rows begin.
    assert browser.switch_to.active_element.text == NAMES[25]


def test_the_label_graph_is_looked_into(opened, place):
    edges = read_run(place / "run").graph
    browser = opened("run.html")
    entry = select(browser, "input.choose")[0]
    browser.execute_script("arguments[0].value = ''", entry)
    press(browser, entry, NAMES[50], "TAB")
    into = (edges.into == 50) & (edges.source != 50)
    order = np.argsort(-np.abs(edges.end[into]))[:15]
    expected = [NAMES[j] for j in edges.source[into][order]]
    lists = ".explorer > div:nth-of-type(1) li button"
    assert texts(browser, lists) == expected
    assert len(select(browser, ".ego .edge")) == 10
    press(browser, select(browser, lists)[0], "ENTER")
    assert entry.get_attribute("value") == expected[0]
    browser.execute_script("arguments[0].value = ''", entry)
    press(browser, entry, "no label", "TAB")
    assert texts(browser, ".chosen") == ["no such label"]


def test_tables_of_a_plan_are_sorted(opened):
    """Means by their numbers, what is missing last."""
    browser = opened("plan.html")
    rows = "[aria-label^='Table of the plan'] tbody tr"
    assert texts(browser, f"{rows} th") == ["logistic", "imcl", HOSTILE[0]]
    heads = select(browser, "[aria-label^='Table of the plan'] thead button")
    (head,) = (x for x in heads if x.text == "all")
    for sign in (-1, 1):
        press(browser, head, "ENTER")
        shown = texts(browser, f"{rows} td:nth-child(3)")
        numbers = [float(text.split(" ")[0]) for text in shown[:2]]
        assert numbers == sorted(numbers, key=lambda x: sign * x)
        assert numbers[0] != numbers[1] and shown[2] == "missing"


def test_runs_of_a_plan_are_sorted_and_opened(opened):
    browser = opened("plan.html")
    rows = "[aria-label='Table of all runs'] tbody tr"
    heads = select(browser, "[aria-label='Table of all runs'] thead button")
    (head,) = (x for x in heads if x.text == "seed")
    press(browser, head, "ENTER")
    assert texts(browser, f"{rows} td:nth-child(4)") == [*"11000"]
    names = texts(browser, f"{rows} th")
    assert names[0] == "imcl, fixed_features, seed 1"
    assert len(select(browser, "details.run")) == 2
    link = select(browser, "a[href='#run-2']")[0]
    press(browser, link, "ENTER")
    assert select(browser, "#run-2")[0].get_attribute("open")
    assert texts(browser, "#run-2 .labels tbody th button") == [
        "cat", "dog", "owl"
    ]  # fmt: skip


def test_a_keyboard_begins_with_the_skip_link(opened):
    browser = opened("run.html")
    press(browser, select(browser, "body")[0], "TAB")
    skip = browser.switch_to.active_element
    assert skip.text == "Skip to the results" and skip.is_displayed()
    assert select(browser, "html")[0].get_attribute("lang") == "en"
    assert browser.title == "run · imcl_tf"
    assert texts(browser, ".warnings li") == [
        "the features tell no images apart"
    ]
