"""``report.html`` in a headless Chromium, as a reader uses it."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import torch
from conftest_html import HOSTILE, NASTY, Videos, make_scores

from openvclip.metrics.classification import compute_scores
from openvclip.report.run.details import build_details
from openvclip.report.run.page import write_html
from openvclip.report.run.retrieval_details import build_retrieval_details

BROWSER, DRIVER = shutil.which("chromium"), shutil.which("chromedriver")
if not (BROWSER and DRIVER):
    pytest.skip("no chromium or chromedriver: apt-get install chromium chromium-driver",
                allow_module_level=True)
NO_SELENIUM = "no selenium: pip install -e .[dev]"
webdriver = pytest.importorskip("selenium.webdriver", reason=NO_SELENIUM)
Select = pytest.importorskip("selenium.webdriver.support.ui", reason=NO_SELENIUM).Select
Keys = webdriver.Keys

FLAGS = ("--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--no-first-run", "--disable-quic",
         "--disable-dev-shm-usage")
WIDE, PHONE = 1200, 360


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    """A Chromium that logs what pages say and can reach no other machine's name."""
    chosen = webdriver.ChromeOptions()
    chosen.binary_location = BROWSER
    for flag in (*FLAGS, "--host-resolver-rules=MAP * ~NOTFOUND , EXCLUDE localhost"):
        chosen.add_argument(flag)
    chosen.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    chosen.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    service = webdriver.ChromeService(executable_path=DRIVER)
    driver = webdriver.Chrome(options=chosen, service=service)
    yield driver
    driver.quit()


class Reader:
    """Opens a page and looks at it; at the end the console must be empty."""

    def __init__(self, driver) -> None:
        self.driver = driver

    def open(self, path: Path, width: int = WIDE, dark: bool = False) -> None:
        self.driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", {
            "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500})
        self.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [
            {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]})
        self.driver.get(path.as_uri())

    def find(self, selector: str):
        return self.driver.find_element("css selector", selector)

    def texts(self, selector: str) -> list[str]:
        script = "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)"
        return self.driver.execute_script(script, selector)

    def text(self, selector: str) -> str:
        return self.texts(selector)[0]

    def column(self, number: int) -> list[str]:
        return self.texts(f"#class-table tbody td:nth-child({number})")

    def press(self, *keys: str) -> None:
        webdriver.ActionChains(self.driver).send_keys(*keys).perform()

    def point(self, x: float, y: float) -> None:
        """Point at a place of the matrix, in pixels from its left upper corner."""
        canvas = self.find("#canvas")
        half_width, half_height = canvas.size["width"] / 2, canvas.size["height"] / 2
        webdriver.ActionChains(self.driver).move_to_element_with_offset(
            canvas, int(x - half_width), int(y - half_height)).perform()

    def run(self, script: str):
        return self.driver.execute_script(f"return {script}")


@pytest.fixture
def reader(browser):
    found = Reader(browser)
    browser.get_log("browser")
    yield found
    assert browser.get_log("browser") == []
    loaded = found.run("performance.getEntriesByType('resource').map(e => e.name)")
    assert [name for name in loaded if not name.startswith("data:")] == []


@pytest.fixture
def page(make_details, tmp_path):
    """A report of three ratios of six classes with hostile names; returns path and details."""
    found, _, _ = make_details()
    write_html(tmp_path / "report.html", found)
    return tmp_path / "report.html", found


def test_page_shows_the_numbers_and_hostile_names(reader, page):
    path, found = page
    reader.open(path)
    assert reader.texts("#numbers dd")[:2] == [
        f"{found['tested'][1][key]:.2f}%" for key in ("top1", "top5")]
    shown = {re.sub("\\\\udcff", "\udcff", name) for name in reader.column(1)}
    assert shown == set(NASTY)
    assert reader.text("#failed-list li").startswith("videos/<i>\\udcff5.mp4")
    assert reader.run("document.querySelectorAll('script').length") == 2
    assert "3 x 1 views x crops (sum), 28 prompts" in reader.text("#short")


def test_search_filters(reader, page):
    reader.open(page[0])
    for typed, wanted in (("SCRIPT", [NASTY[0]]), ("ünï 打", [NASTY[2]]), ("no such class", [])):
        reader.find("#search").clear()
        reader.find("#search").send_keys(typed)
        assert reader.column(1) == wanted
        assert reader.text("#found") == f"{len(wanted)} of 6 classes"


def test_columns_sort_by_mouse_and_keyboard(reader, page):
    path, found = page
    reader.open(path)
    worst_first = sorted(100 * right / 10 for right in found["tested"][1]["right"])
    assert reader.column(4) == [f"{value:.2f}%" for value in worst_first]
    head = reader.find("#class-table th:nth-of-type(4)")
    assert head.get_attribute("aria-sort") == "ascending"
    head.find_element("tag name", "button").click()
    assert reader.column(4) == [f"{value:.2f}%" for value in worst_first[::-1]]
    assert head.get_attribute("aria-sort") == "descending"
    reader.run("document.querySelector('#class-table th button').focus()")
    reader.press(Keys.ENTER)
    assert head.get_attribute("aria-sort") == "none"
    assert reader.column(1) == reader.run(
        "data.classes.slice().sort((a, b) => a.localeCompare(b))")
    reader.press(Keys.ENTER)
    assert reader.column(1)[0] == reader.run(
        "data.classes.slice().sort((a, b) => b.localeCompare(a))[0]")


def test_ratio_selector_switches_everything(reader, page):
    path, found = page
    reader.open(path)
    select = Select(reader.find("#ratio"))
    assert select.first_selected_option.text == "0.5 (best)"
    assert "0.5 has the best top-1 of the 3 ratios" in reader.text("#ratio-note")
    before = reader.column(4), reader.texts("#cards figcaption"), reader.texts("#pair-table td")
    select.select_by_visible_text("1")
    row = found["tested"][2]
    assert reader.text("#numbers dd") == f"{row['top1']:.2f}%"
    assert reader.column(4) == [f"{10 * right:.2f}%" for right in sorted(row["right"])]
    after = reader.column(4), reader.texts("#cards figcaption"), reader.texts("#pair-table td")
    assert all(a != b for a, b in zip(before, after, strict=True))
    assert reader.texts("#ratios tr.chosen td")[0] == "1"
    assert len(reader.texts("#curve circle")) == 6


def test_matrix_by_keyboard(reader, page):
    path, found = page
    reader.open(path)
    cells = found["tested"][1]["confusion"]
    wrong = sorted((cells[i:i + 3] for i in range(0, len(cells), 3) if cells[i] != cells[i + 1]),
                   key=lambda cell: -cell[2])
    reader.run("document.getElementById('fit').focus()")
    reader.press(Keys.TAB)
    assert reader.run("document.activeElement.id") == "plane"
    assert reader.run("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    reader.press(Keys.ENTER)
    is_, named, count = wrong[0]
    assert f": {count} of 10 videos ({10 * count:.1f}%)" in reader.text("#cell")
    names = reader.texts("#cell b")
    assert names == [found["classes"][i].replace("\udcff", "\\udcff") for i in (is_, named)]
    reader.press(Keys.ENTER)
    assert f": {wrong[1][2]} of 10" in reader.text("#cell")
    reader.press(Keys.HOME, Keys.ARROW_UP * 9)
    right = found["tested"][1]["right"][0]
    assert reader.text("#cell") == (
        f"{NASTY[0]} named rightly: {right} of 10 videos ({10 * right:.1f}%).")
    reader.press(Keys.ARROW_RIGHT)
    assert reader.texts("#cell b") == [NASTY[0], NASTY[1]]
    reader.press(Keys.ESCAPE)
    assert reader.text("#cell") == "No cell chosen."


def test_matrix_by_pointer_and_from_the_pairs(reader, page):
    path, _ = page
    reader.open(path)
    reader.point(*reader.run("[1, 3].map((i) => matrix.margin + (i + 0.5) * matrix.side)"))
    assert reader.texts("#cell b") == [NASTY[3], NASTY[1]]
    reader.run("document.querySelector('#pair-table button').focus()")
    reader.press(Keys.ENTER)
    assert reader.texts("#cell b") == reader.texts("#pair-table tbody tr:first-child td.name")
    assert reader.run("document.activeElement.id") == "plane"


@pytest.mark.parametrize("width", [PHONE, WIDE])
@pytest.mark.parametrize("classes", [3, 101, 600])
def test_page_never_scrolls_sideways(reader, make_details, tmp_path, classes, width):
    names = [f"{i} {'playing with something ' * (i % 4)}" + "x" * (i % 40) for i in range(classes)]
    dark = classes == 101
    write_html(tmp_path / "report.html", make_details(names, classes * 5)[0])
    reader.open(tmp_path / "report.html", width, dark)
    assert reader.run("document.documentElement.scrollWidth") <= width
    shown = reader.run("getComputedStyle(document.body).backgroundColor")
    assert (shown == "rgb(20, 23, 27)") is dark
    assert reader.run("canvas.clientWidth") <= reader.run("plane.clientWidth")
    # Cells of hundreds of classes are found near the pointer; enlarged, they bear their names.
    assert reader.run("matrix.margin > 0") is (classes == 3)
    for _ in range(8):
        reader.run("document.getElementById('larger').click()")
    assert reader.run("matrix.side") >= (11 if classes == 600 else 30)
    assert reader.run("document.documentElement.scrollWidth") <= width
    painted = reader.run("canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height)"
                         ".data.some((value) => value)")
    assert painted
    reader.run("document.getElementById('fit').click()")
    assert reader.run("canvas.clientWidth") <= reader.run("plane.clientWidth")


def test_a_matrix_of_the_classes_that_occur(reader, tmp_path):
    """Five of 400 classes in the list: their cells are large, and every number is theirs."""
    classes = [f"class {i}" for i in range(400)]
    labels = torch.tensor([7, 50, 123, 250, 399]).repeat(8)
    scores = torch.zeros(40, 400)
    scores[torch.arange(40), labels] = 1.0
    scores[0, 311] = 2.0  # no video is of this one
    done = torch.ones(40, dtype=torch.bool)
    results = {
        "list": "lists/test.csv", "videos": 40, "failed": [],
        "checkpoint": {"file": "runs/<b>/swa.pth", "sha256": None},
        "results": [{"patching_ratio": 0.5, **compute_scores(scores, labels, done)}]}
    write_html(tmp_path / "few.html", build_details(results, classes, labels, [(scores, done)]))
    reader.open(tmp_path / "few.html")
    assert reader.find("#weights").text == "runs/<b>/swa.pth, patched with CLIP at ratio 0.5"
    assert "Shown are the 6 of 400 classes that occur." in reader.find("#present").text
    assert reader.run("matrix.count") == 6 and reader.run("matrix.side") > 30
    assert reader.run("matrix.classes") == [classes[i] for i in (7, 50, 123, 250, 311, 399)]
    reader.find("#pair-table button").click()
    assert reader.find("#cell").text.startswith("class 7 named class 311: 1 of 8 videos")
    row = reader.run("items.find((item) => item.name === 'class 7')")
    assert (row["instead"], row["times"], row["total"]) == ("class 311", 1, 8)


def test_pointer_finds_the_nearest_of_many_cells(reader, make_details, tmp_path):
    write_html(tmp_path / "report.html", make_details([f"c{i}" for i in range(600)], 600)[0])
    reader.open(tmp_path / "report.html")
    assert reader.run("matrix.side") < 2
    reader.point(300, 310)
    is_, named = reader.run("[matrix.at.is, matrix.at.named]")
    assert reader.run(f"matrix.countOf({is_}, {named})") > 0


def test_several_labels_show_average_precision(reader, tmp_path):
    targets = torch.tensor([[1, 0, 0], [0, 1, 0], [1, 1, 0]])
    columns = [(make_scores(torch.tensor([0, 1, 0]), 3, 0.5), torch.ones(3, dtype=torch.bool))]
    results = {"videos": 3, "failed": [],
               "results": [{"patching_ratio": None, "map_decoded": 75.0}]}
    found = build_details(results, ["a", "b", "c"], targets, columns, Videos())
    write_html(tmp_path / "report.html", found)
    reader.open(tmp_path / "report.html")
    assert reader.texts("#numbers dd") == ["75.00%", "3", "3"]
    assert not reader.find("#matrix").is_displayed() and not reader.find("#choice").is_displayed()
    assert reader.column(1)[-1] == "c" and reader.column(3)[-1] == "–"
    assert reader.texts("nav a") == ["Headline", "Classes", "Failed videos", "Protocol and weights"]


def test_pictures_are_drawn_and_missing_ones_said(reader, make_details, tmp_path):
    gone = make_details()[0]["tested"][1]["mistakes"][0]["row"]
    write_html(tmp_path / "report.html", make_details(dataset=Videos(gone))[0])
    reader.open(tmp_path / "report.html")
    assert reader.text("#cards figure .none") == "no picture"
    reader.run("document.querySelectorAll('#cards img').forEach((x) => { x.loading = 'eager'; })")
    script = ("const done = arguments[0]; Promise.all([...document.images].map((x) => x.decode()))"
              ".then(() => done([...document.images].map((x) => x.naturalWidth)))")
    widths = reader.driver.execute_async_script(script)
    assert widths and set(widths) == {484}
    assert all(reader.run("[...document.images].map((x) => x.alt.length > 20)"))


@pytest.mark.parametrize("width", [PHONE, WIDE])
def test_retrieval_by_ratio(reader, make_retrieval, tmp_path, width):
    results, paths = make_retrieval()
    found = build_retrieval_details(results, paths, Videos(gone=58))
    write_html(tmp_path / "report.html", found, "retrieval")
    reader.open(tmp_path / "report.html", width, dark=width == PHONE)
    best, other = found["tested"][1], found["tested"][2]
    assert "0.5 has the best mean of T2V and V2T R@1" in reader.text("#ratio-note")
    assert reader.texts("#numbers dd") == [f"{best['t2v_r1']:.2f}%", f"{best['v2t_r1']:.2f}%",
                                           "60", "60", "1"]
    assert reader.texts("#directions tr:nth-child(2) td") == [
        *(f"{best[f'v2t_r{k}']:.2f}%" for k in (1, 5, 10)),
        *(f"{best[f'v2t_{name}_rank']:.1f}" for name in ("median", "mean"))]
    counted = [f"{count} ({100 * count / 60:.1f}%)" for count in best["t2v_ranks"].values()]
    assert reader.texts("#rank-table td:nth-child(2)") == counted
    assert reader.text("#text-cards q") == HOSTILE == reader.text("#video-cards q")
    assert len(reader.texts("#text-cards figure:nth-child(1) img")) == 2
    assert reader.texts("#text-cards figure:nth-child(2) .none") == ["no picture"]
    assert reader.run("document.querySelectorAll('script').length") == 2
    assert reader.run("document.documentElement.scrollWidth") <= width
    reader.run("document.getElementById('ratio').focus()")
    reader.press(Keys.ARROW_DOWN)  # to the ratio 1
    assert reader.text("#numbers dd") == f"{other['t2v_r1']:.2f}%" != f"{best['t2v_r1']:.2f}%"
    assert reader.texts("#rank-table td:nth-child(2)") != counted
    assert reader.texts("#text-cards .role")[0].startswith("its video, at rank 60")
    reader.press(Keys.TAB)
    assert reader.run("document.activeElement.id") == "directions"


def test_retrieval_without_mistakes_or_ratios(reader, make_retrieval, tmp_path):
    results, paths = make_retrieval((None,))
    results["failed"] = []
    results["results"][0]["examples"] = {"text_to_video": [], "video_to_text": []}
    write_html(tmp_path / "report.html", build_retrieval_details(results, paths), "retrieval")
    reader.open(tmp_path / "report.html")
    assert not reader.find("#choice").is_displayed() and not reader.find("#sweep").is_displayed()
    assert reader.text("#text-cards") == "None: no query that was evaluated has a rank above 1."
    assert "failed" not in reader.texts("#rank-table tbody th")
