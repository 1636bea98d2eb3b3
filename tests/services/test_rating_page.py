"""The rating page as a rater meets it: three cards by the keyboard alone, the server stopped and started, and on with the fourth."""

import functools
import shutil

import pytest
from planted_run import HOSTILE, VOCABULARY, write_run
from running_browser import RunningBrowser

from sae.rating.deck import DeckConfig, make_deck
from sae.rating.records import KeptRating
from sae.storage import Place
from services.browser.rating import rating_app
from services.browser.server import Listening

api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: `pip install playwright`")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
ARGUMENTS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update", "--disable-sync"]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: `apt install chromium` to test the page in a browser"),
]


def with_deck(run, surroundings, *, deck):
    return rating_app(run, deck, surroundings)


@pytest.fixture
def run(tmp_path):
    return write_run(Place(tmp_path / "planted"), num_features=2)  # the only feature of each source that fires is the hostile one


@pytest.fixture
def open_rating(run):
    opened = []
    deck = make_deck(run, VOCABULARY, DeckConfig())

    def open_at(port=0):
        opened.append(RunningBrowser(run, Listening(port=port), functools.partial(with_deck, deck=deck)))
        return opened[-1]

    yield open_at
    for each in opened:
        each.stop()


@pytest.fixture
def page():
    complaints = []
    with api.sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        page = chromium.new_page(viewport={"width": 1400, "height": 900})
        page.on("pageerror", lambda error: complaints.append(str(error)))
        yield page
        chromium.close()
    assert complaints == []


def rate(page, card, words, digits):
    api.expect(page.locator("#card-name")).to_have_text(f"Card {card} of 4")
    api.expect(page.locator("#interpretation")).to_be_focused()
    page.keyboard.type(words)
    page.keyboard.press("Enter")
    page.keyboard.type(digits)
    api.expect(page.locator("#points")).to_have_text(f"{sum(map(int, digits))} of 14 points")
    page.keyboard.press("Enter")


def test_three_cards_a_restart_and_the_fourth(run, page, open_rating):
    first = open_rating()
    page.goto(first.address)
    page.keyboard.type("anna")
    page.keyboard.press("Enter")
    rate(page, 1, "the word “of”", "3423")
    rate(page, 2, HOSTILE, "0001")
    rate(page, 3, "numbers", "2321")
    api.expect(page.locator("#card-name")).to_have_text("Card 4 of 4")

    assert page.locator("img").count() == 0  # hostile tokens are shown as text
    assert page.locator("#card mark").filter(has_text=HOSTILE).count() > 0
    assert page.evaluate("document.documentElement.scrollWidth") == 1400

    first.stop()
    page.keyboard.type("lost?")
    page.keyboard.press("Control+Enter")
    api.expect(page.locator("#problem")).to_have_text("Some part has no grade yet.")
    page.keyboard.press("Escape")
    page.keyboard.type("1111")
    page.keyboard.press("Enter")
    api.expect(page.locator("#problem")).to_contain_text("The server does not answer")
    assert page.input_value("#interpretation") == "lost?"

    open_rating(first.port)
    page.reload()
    api.expect(page.locator("#card-name")).to_have_text("Card 4 of 4")
    api.expect(page.locator("#progress")).to_have_text("3 rated by anna")
    page.keyboard.press("Escape")
    page.keyboard.press("k")
    api.expect(page.locator("#interpretation")).to_have_value("numbers")  # what was said before can be said again
    page.keyboard.press("Escape")
    page.keyboard.press("j")
    api.expect(page.locator("#card-name")).to_have_text("Card 4 of 4")
    page.keyboard.press("Escape")
    page.keyboard.press("x")
    page.keyboard.press("Enter")
    api.expect(page.locator("#end")).to_be_visible()
    kept = [KeptRating.parse(run.get_sealed(key)) for key in run.list("ratings/anna")]
    assert [(each.card, each.interpretation, each.total) for each in kept] == [
        (0, "the word “of”", 12), (1, HOSTILE, 1), (2, "numbers", 8), (3, "", 0)
    ]  # fmt: skip
    assert all(0 < each.seconds < 60 for each in kept)


def test_a_narrow_screen_shows_everything(page, open_rating):
    page.set_viewport_size({"width": 400, "height": 800})
    page.goto(open_rating().address + "#ben")
    api.expect(page.locator("#card-name")).to_have_text("Card 1 of 4")
    assert page.evaluate("document.documentElement.scrollWidth") == 400
    assert page.evaluate("scrollY") == 0  # the examples come first, although the answer has the focus
