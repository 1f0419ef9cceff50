"""A report in a browser that nobody sees: what it shows, and what hands and keys do to it."""

import shutil
import tempfile

import pytest
from report_doubles import full_report, pictures, swept, table

from robustmarl.evaluation import Cell, CrossTable, report

pytestmark = pytest.mark.browser

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser")
DRIVER = shutil.which("chromedriver")
QUIET = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--window-size=1280,900",
)


@pytest.fixture(scope="module")
def browser():
    webdriver = pytest.importorskip("selenium.webdriver")
    if BROWSER is None or DRIVER is None:
        pytest.skip("no chromium with its driver")
    options = webdriver.ChromeOptions()
    options.binary_location = BROWSER
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    with tempfile.TemporaryDirectory() as profile:
        for flag in (*QUIET, f"--user-data-dir={profile}"):
            options.add_argument(flag)
        driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(DRIVER))
        yield driver
        driver.quit()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return full_report(tmp_path_factory.mktemp("report") / "report.html")


@pytest.fixture
def page(browser, file):
    screen(browser)
    browser.get(file.as_uri())
    browser.execute_script("localStorage.clear()")
    browser.refresh()
    browser.get_log("browser")
    yield browser
    assert browser.get_log("browser") == []


def screen(browser, width=1280, height=900, scheme="light"):
    """Set what the browser believes to be shown on."""
    metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 600}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    features = [{"name": "prefers-color-scheme", "value": scheme}]
    browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})


def one(browser, selector):
    return browser.find_element("css selector", selector)


def texts(browser, selector):
    return [found.text for found in browser.find_elements("css selector", selector)]


def colour(browser, selector, name):
    return one(browser, selector).value_of_css_property(name)


def press(browser, *keys):
    from selenium.webdriver import ActionChains

    ActionChains(browser).send_keys(*keys).perform()


def slide(browser, step):
    script = (
        "const slider = document.querySelector('input[type=range]');"
        "slider.value = arguments[0]; slider.dispatchEvent(new Event('input'))"
    )
    browser.execute_script(script, step)


def test_shows_everything_and_no_markup_of_names(page):
    headings = texts(page, "section h2")
    assert headings == ["3m: wins", "Learning curves", "3m", "3m: what is proven", "Episodes"]
    assert texts(page, ".heatmap th[scope=row]") == ["QMIX", "<b>QMIX</b>", "random"]
    assert page.find_elements("css selector", ".heatmap b") == []
    assert texts(page, ".heatmap .group th") == ["For comparison: never trained, or without eyes"]
    assert page.execute_script("return performance.getEntriesByType('resource').length") == 0


def test_a_figure_tells_more_under_the_pointer(page):
    from selenium.webdriver import ActionChains

    estimate = table().cell("QMIX", "PGD").estimate
    assert not one(page, ".tip").is_displayed()
    ActionChains(page).move_to_element(page.find_elements("css selector", "td.figure")[1]).perform()
    told = one(page, ".tip").text
    assert f"QMIX, PGD: {estimate}" in told
    assert f"3 training seeds, {estimate.n_episodes} episodes" in told
    assert "python try.py --epsilon 0.1" in told
    press(page, "\ue00c")  # escape
    assert not one(page, ".tip").is_displayed()


def test_figures_are_walked_by_keys(page):
    page.execute_script("document.querySelector('td.figure[tabindex=\"0\"]').focus()")
    seen = []
    for key in ("", "\ue014", "\ue015", "\ue013", "\ue010", "\ue012"):  # right down up end left
        press(page, key)
        seen.append(one(page, ".tip .head").text.split(":")[0])
    assert seen == [
        "QMIX, none",
        "QMIX, PGD",
        "<b>QMIX</b>, PGD",
        "QMIX, PGD",
        "QMIX, worst",
        "QMIX, PGD",
    ]
    inside = page.execute_script("return document.querySelectorAll('td[tabindex=\"0\"]').length")
    assert inside == 1


def test_curves_tell_of_their_places(page):
    plots = page.find_elements("css selector", ".plot")
    page.execute_script("arguments[0].focus()", plots[2])
    press(page, "\ue014")
    assert "random: 0.25" in one(page, ".tip").text
    press(page, "\ue014")
    told = one(page, ".tip").text
    assert told.startswith("epsilon 0.1")
    assert "QMIX: 0.25 [0.00631, 0.806] (training seeds: 1, episodes: 4)" in told
    button = page.find_elements("css selector", "#section-3 .legend button")[1]
    assert button.text == "QMIX"
    lines = len(page.find_elements("css selector", "#section-3 .mean"))
    button.click()
    assert button.get_attribute("aria-pressed") == "false"
    assert len(page.find_elements("css selector", "#section-3 .mean")) == lines - 2
    details = one(page, "#section-3 details")
    page.execute_script("arguments[0].open = true", details)
    assert texts(page, "#section-3 .figures tbody th, #section-3 .figures tr th[scope=row]") == [
        "0",
        "0.1",
    ]


def test_the_slider_moves_all_films(page):
    assert texts(page, ".film h3") == ["clean", "attacked"]
    before = one(page, ".film .thing").get_attribute("style")
    slide(page, 6)
    assert one(page, ".counter").text.startswith("6 / ")
    assert all(text.startswith("Step 6") for text in texts(page, ".film .status"))
    assert one(page, ".film .thing").get_attribute("style") != before
    films = page.find_elements("css selector", ".film")
    ghosts = [len(film.find_elements("css selector", ".ghost")) for film in films]
    assert ghosts[0] == 0
    assert ghosts[1] > 0
    assert len(films[1].find_elements("css selector", ".thing.believer")) == 1
    slide(page, 10_000)
    assert "The end" in texts(page, ".film .status")[0] + texts(page, ".film .status")[1]


def test_beliefs_are_chosen(page):
    from selenium.webdriver.support.ui import Select

    slide(page, 1)
    beliefs = Select(page.find_elements("css selector", ".choice select")[-1])
    shown = {}
    for name in ("nobody", "agent_1", "all"):
        beliefs.select_by_visible_text(name)
        shown[name] = len(page.find_elements("css selector", ".ghost"))
    assert shown["nobody"] == 0 < shown["agent_1"] < shown["all"]
    assert len(page.find_elements("css selector", ".thing.believer")) == 3


def test_plays_and_pauses_by_keys(page):
    from selenium.webdriver.support.ui import WebDriverWait

    button = one(page, ".play")
    page.execute_script("arguments[0].focus()", button)
    assert "Play" in button.text
    press(page, " ")
    assert "Pause" in button.text
    WebDriverWait(page, 30).until(lambda _: not one(page, ".counter").text.startswith("0 /"))
    press(page, " ")
    assert "Play" in button.text
    page.execute_script("document.querySelector('input[type=range]').focus()")
    step = int(one(page, ".counter").text.split()[0])
    press(page, "\ue014")
    assert one(page, ".counter").text.startswith(f"{step + 1} /")


def test_light_and_dark(page):
    light = colour(page, "body", "background-color")
    one(page, "#theme").click()
    dark = colour(page, "body", "background-color")
    assert dark != light
    page.refresh()
    assert colour(page, "body", "background-color") == dark  # remembered
    page.execute_script("localStorage.clear()")
    screen(page, scheme="dark")
    page.refresh()
    assert colour(page, "body", "background-color") == dark


def test_fits_a_phone(page):
    screen(page, 390)
    page.refresh()
    width = page.execute_script("return document.documentElement.scrollWidth")
    assert width == 390
    slide(page, 3)
    lefts = {film.rect["x"] for film in page.find_elements("css selector", ".film")}
    assert len(lefts) == 1  # one under the other
    cell = one(page, "td.figure")
    page.execute_script("arguments[0].focus()", cell)
    tip = one(page, ".tip").rect
    assert tip["x"] >= 0
    assert tip["x"] + tip["width"] <= 390


def test_pictures_are_played(browser, tmp_path):
    path = report([], tmp_path / "pictures.html", recordings=pictures())
    screen(browser)
    browser.get(path.as_uri())
    slide(browser, 1)
    image = one(browser, "img.field")
    assert browser.execute_script("return arguments[0].naturalWidth", image) == 6
    assert image.get_attribute("alt") == "pictures, step 1"
    assert texts(browser, ".acts .who") == list(pictures().agents)
    assert browser.get_log("browser") == []


def test_baselines_have_no_band(browser, tmp_path):
    screen(browser)
    sweep, _ = swept()
    browser.get(report([], tmp_path / "sweep.html", sweeps=[sweep]).as_uri())
    wins, kept = browser.find_elements("css selector", ".charts svg")
    assert len(wins.find_elements("css selector", ".mean")) == 2  # QMIX, and the random team
    assert len(wins.find_elements("css selector", ".band")) == 1
    assert len(kept.find_elements("css selector", ".band")) == 1


def test_few_teams_under_many_attacks_stand_upright(browser, tmp_path):
    names = ["none", *(f"attack {i}" for i in range(11)), "worst"]
    rows = {"QMIX": {name: Cell({0: [float(i > 5)] * 4}) for i, name in enumerate(names)}}
    rows["random"] = {"none": Cell({0: [0.0] * 4})}
    table = CrossTable(cells=rows, metric="won", baselines=["random"])
    screen(browser)
    browser.get(report(table, tmp_path / "tall.html").as_uri())
    assert texts(browser, ".heatmap thead th") == ["QMIX"]
    assert texts(browser, ".heatmap tbody th[scope=row]") == [*names, "random"]
    shown = texts(browser, "td.figure .mean")
    assert shown == ["0.00"] * 6 + ["1.00"] * 7 + ["0.00"]
    browser.execute_script("document.querySelector('td.figure[tabindex=\"0\"]').focus()")
    press(browser, "\ue015")  # down
    assert one(browser, ".tip .head").text.startswith("QMIX, attack 0:")
    width = "return document.documentElement.scrollWidth <= document.documentElement.clientWidth"
    assert browser.execute_script(width)
    assert browser.get_log("browser") == []
