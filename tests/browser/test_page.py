"""`cvls demo` in a browser, as a Space runs it: masks are those of the pipeline, and what cannot be done is told in
the page.

PAGE_MODEL (a folder) and PAGE_SCREENSHOT (a png file) make the picture in docs/ with a trained model:
PAGE_MODEL=outputs/demo/checkpoint PAGE_SCREENSHOT=docs/pictures/page.png \\
    python -m pytest tests/browser/test_page.py -k example
"""

import io
import json
import os
import re
import shutil
import signal
import time
import zipfile
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from transformers import pipeline

from modeling_cvls import FrameReader
from modeling_cvls.synthetic import make_scene
from modeling_cvls.visualization import overlay

if find_spec("gradio") is None:  # importing it takes seconds, and only the server needs it
    pytest.skip("gradio is not installed (the extra `demo`)", allow_module_level=True)
pytest.importorskip("selenium", reason="selenium is not installed (the extra `dev`)")
if not (shutil.which("chromium") and shutil.which("chromedriver")):
    pytest.skip("no browser here: apt-get install chromium chromium-driver", allow_module_level=True)

from selenium import webdriver
from selenium.common.exceptions import StaleElementReferenceException
from selenium.webdriver.support.ui import WebDriverWait

pytestmark = pytest.mark.slow
SENTENCES = ["the red circle", "the square moving left"]
PLAY = """
const [done, video] = [arguments[0], document.querySelector("#overlay video")];
video.muted = true;
video.play().then(() => setTimeout(() => done({
    frames: video.getVideoPlaybackQuality().totalVideoFrames, width: video.videoWidth, duration: video.duration,
    paused: video.paused, error: video.error && video.error.message}), 1000), error => done({error: String(error)}));
"""
#: Everything that the overlay's place ever said.
WATCH = """
const place = document.querySelector("#overlay");
window.said = [];
new MutationObserver(() => window.said.push(place.innerText)).observe(
    place, {childList: true, subtree: true, characterData: true});
"""


class Page:
    def __init__(self, driver: webdriver.Chrome, address: str):
        self.driver, self.wait = driver, WebDriverWait(driver, 60, 0.1, [StaleElementReferenceException])
        self.address = address

    def open(self) -> None:
        self.driver.get(self.address)
        self.wait.until(lambda _: self.find("#segment") and self.find("#clip input[type=file]"))

    def find(self, selector: str) -> list:
        return self.driver.find_elements("css selector", selector)

    def click(self, selector: str, which: int = 0) -> None:
        element = self.wait.until(lambda _: self.find(selector))[which]
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'}); arguments[0].click()", element)

    def upload(self, path: Path) -> None:
        self.find("#clip input[type=file]")[0].send_keys(str(path))

    def uploaded(self) -> None:
        self.wait.until(lambda _: self.find("#clip video"))

    def boxes(self) -> list:
        return [box for box in self.find("[placeholder^='sentence ']") if box.is_displayed()]

    def type(self, number: int, text: str) -> None:
        self.boxes()[number - 1].send_keys(text)

    def told(self, text: str) -> None:
        """Waits for a message with these words, and closes it."""

        def said(_):
            return [box for box in self.find("[data-testid=toast-body]") if text in box.text]

        self.wait.until(said, f"no message {text!r}; the page says {self.find('body')[0].text}")
        for button in self.find("[data-testid=toast-body] button"):
            self.driver.execute_script("arguments[0].click()", button)
        self.wait.until_not(said)


@pytest.fixture(scope="module")
def page(server, tmp_path_factory):
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    for argument in ("headless=new", "no-sandbox", "disable-dev-shm-usage", "disable-gpu", "window-size=1280,1490"):
        options.add_argument(f"--{argument}")
    options.add_argument(f"--user-data-dir={tmp_path_factory.mktemp('profile')}")
    downloads = tmp_path_factory.mktemp("downloads")
    prefs = {
        "download.default_directory": str(downloads),
        "profile.default_content_setting_values.automatic_downloads": 1,
    }
    options.add_experimental_option("prefs", prefs)
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        page = Page(driver, server[0])
        page.downloads = downloads
        page.open()
        yield page
    finally:
        driver.quit()


def test_bad_uploads_get_a_message(page, clips):
    page.upload(clips / "notes.txt")
    page.told("Invalid file type")
    page.upload(clips / "large.mp4")
    page.told("maximum allowed size")
    page.click("#segment")
    page.told("There is no sentence yet")
    page.type(1, SENTENCES[0])
    page.type(2, SENTENCES[1])
    page.click("#segment")
    page.told("There is no clip yet")
    page.upload(clips / "renamed.mp4")
    page.uploaded()
    page.click("#segment")
    page.told("renamed.mp4 cannot be decoded as a video")
    page.open()
    page.type(1, SENTENCES[0])
    page.type(2, " ")
    page.upload(clips / "long.mp4")
    page.uploaded()
    page.click("#segment")
    page.told("long.mp4 is too long: it lasts 72.0 s, and at most 60 s are taken here")
    assert "Error" not in page.find("#overlay")[0].text


def test_a_clip_that_ends_the_decoder_leaves_the_page_up(page, clips):
    page.open()
    page.type(1, SENTENCES[0])
    page.upload(clips / "bomb.mp4")
    page.uploaded()
    page.click("#segment")
    page.wait.until(lambda _: page.find("#scores table") or "bomb.mp4" in page.find("body")[0].text)
    page.open()
    page.type(2, SENTENCES[0])  # the first box stays empty, as a visitor leaves it
    page.upload(clips / "other.mp4")
    page.uploaded()
    page.click("#segment")
    page.wait.until(lambda _: page.find("#overlay video") and page.find("#scores table"))
    assert len(page.find("#scores tr")) == 2


def test_overlay_plays_and_masks_are_the_pipelines(page, clips, checkpoint):
    page.open()
    page.upload(clips / "good.mp4")
    page.type(1, SENTENCES[0])
    page.type(2, "the sentence that is removed")
    page.click("#add")
    page.wait.until(lambda _: len(page.boxes()) == 3)
    page.type(3, SENTENCES[1])
    page.click("#remove_2")
    page.wait.until(lambda _: [box.get_attribute("value") for box in page.boxes()] == SENTENCES)
    page.uploaded()
    page.driver.execute_script(WATCH)
    page.click("#segment")
    page.wait.until(lambda _: page.find("#overlay video") and page.find("#scores table"))
    played = page.driver.execute_async_script(PLAY)
    assert played["error"] is None and not played["paused"] and played["frames"] >= 2
    assert played["duration"] == pytest.approx(3, abs=0.3)
    said = page.driver.execute_script("return window.said")
    assert any("/12 frames" in text for text in said), said

    for button, file in (("#save_video:enabled", "overlay.mp4"), ("#save_masks:enabled", "masks.zip")):
        page.click(button)
        page.wait.until(lambda _, path=page.downloads / file: path.exists(), f"{file} was not downloaded")
    segmenter = pipeline("video-language-segmentation", model=str(checkpoint), device="cpu")
    expected = segmenter(str(clips / "good.mp4"), SENTENCES)
    masks = np.stack([result["masks"] for result in expected])
    with zipfile.ZipFile(page.downloads / "masks.zip") as archive:
        found = [
            [np.asarray(Image.open(io.BytesIO(archive.read(f"{number}/{frame:05d}.png")))) for frame in range(12)]
            for number in (1, 2)
        ]
        summary = json.loads(archive.read("sentences.json"))
    found = np.stack([np.stack(masks) for masks in found])
    assert found.shape == masks.shape == (2, 12, 64, 64)
    assert (found == masks).mean() > 0.999  # the number of threads may differ
    assert found.any((1, 2, 3)).all() and (found[0] != found[1]).mean() > 0.01
    assert [row["sentence"] for row in summary] == SENTENCES
    cells = [cell.text for cell in page.find("#scores td")]
    for index, result in enumerate(expected):
        assert summary[index]["score"] == pytest.approx(result["score"], abs=1e-3)
        assert cells[4 * index + 1 : 4 * index + 4] == [
            SENTENCES[index],
            f"{summary[index]['score']:.2f}",
            f"{masks[index].any((1, 2)).sum()} of 12",
        ]
    frames = FrameReader(clips / "good.mp4").read(range(12))
    drawn = FrameReader(page.downloads / "overlay.mp4").read(range(12))
    picture = overlay(frames, masks, SENTENCES, [row["score"] for row in summary])  # the table's numbers
    assert drawn.shape == picture.shape and drawn.shape[2] == played["width"]
    assert np.abs(drawn.astype(int) - picture).mean() < 4
    times = page.find("#times")[0].text
    assert re.fullmatch(
        r"Time: decoding [\d.]+ s, encoding [\d.]+ s, sentences and masks [\d.]+ s, drawing [\d.]+ s.", times
    )


def test_a_second_sentence_is_answered_without_encoding(page):
    """The clip and the page of the test before."""
    page.boxes()[0].send_keys(" moving right")
    page.click("#segment")
    page.wait.until(lambda _: "encoded before" in page.find("#times")[0].text)
    times = page.find("#times")[0].text
    assert re.fullmatch(r"Time: the clip was encoded before, sentences and masks [\d.]+ s, drawing [\d.]+ s.", times)
    assert page.find("#scores td")[1].text == SENTENCES[0] + " moving right"


def test_example_and_similarity_maps(page, tmp_path):
    page.open()
    page.click("#examples button")
    _, sentences = make_scene("test", 0, size=256)
    texts = [sentence.text for sentence in sentences[:3]]
    page.wait.until(lambda _: [box.get_attribute("value") for box in page.boxes()] == texts)
    page.uploaded()
    page.click("#segment")
    page.wait.until(lambda _: page.find("#overlay video") and page.find("#scores table"))
    page.click("#look")
    page.wait.until(lambda _: len(page.find("#maps img")) == 1 + len(texts))
    page.driver.execute_script("window.scrollTo(0, 0)")
    time.sleep(1)  # pictures load
    page.driver.save_screenshot(os.environ.get("PAGE_SCREENSHOT", str(tmp_path / "page.png")))


def test_server_never_failed_and_leaves_nothing(server, page, clips):
    _, process, temporary, log = server
    page.open()
    page.upload(clips / "good.mp4")
    page.uploaded()
    (folder,) = temporary.glob("cvls-page-*")
    assert list(folder.glob("cache/**/good.mp4"))
    assert process.poll() is None
    page.driver.get("about:blank")  # or the browser asks on for a clip that is deleted at the end
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=20) == 0, log.read_text()
    assert not list(temporary.glob("cvls-page-*"))
    assert "Traceback" not in log.read_text()
