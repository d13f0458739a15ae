"""The page's public endpoint: what it lists, gives and refuses, and 500 requests."""

import http.server
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import psutil
import pytest
from transformers import pipeline

from modeling_cvls.visualization import write_video

gradio_client = pytest.importorskip("gradio_client", reason="gradio is not installed (the extra `demo`)")

pytestmark = pytest.mark.slow
SENTENCES = ["the red circle", "the square moving left"]


def visitor(address, downloads):
    """A function: sends a clip (a path, or what stands for one) and sentences, with thresholds."""
    # by default it waits for no more than 5 seconds, in which a busy machine may not take an upload
    patient = {"timeout": 300}
    # the address has no TLS, but with `ssl_verify` every request reads all certificates of the system
    client = gradio_client.Client(
        address, verbose=False, download_files=downloads, ssl_verify=False, httpx_kwargs=patient
    )

    def ask(clip, sentences=SENTENCES, threshold=0.5, presence_threshold=0.5):
        clip = gradio_client.handle_file(clip) if isinstance(clip, str) else clip
        return client.predict(clip, sentences, threshold, presence_threshold, api_name="/segment")

    return ask


@pytest.fixture(scope="module")
def ask(server, tmp_path_factory):
    return visitor(server[0], tmp_path_factory.mktemp("downloads"))


def test_one_endpoint_is_listed(server):
    client = gradio_client.Client(server[0], verbose=False)
    assert client.view_api(return_format="dict")["named_endpoints"].keys() == {"/segment"}


def test_scores_are_the_pipelines(ask, clips, checkpoint):
    _, _, found = ask(str(clips / "good.mp4"), [SENTENCES[0], " ", SENTENCES[1]])
    segmenter = pipeline("video-language-segmentation", model=str(checkpoint), device="cpu")
    expected = segmenter(str(clips / "good.mp4"), SENTENCES)
    assert [row["sentence"] for row in found] == SENTENCES and [row["frames"] for row in found] == [12, 12]
    assert [row["score"] for row in found] == pytest.approx([result["score"] for result in expected], abs=1e-3)


def test_what_is_wrong_is_said(ask, clips):
    good = str(clips / "good.mp4")
    for arguments, message in (
        ((good, ["a circle"] * 30), "There are 30 sentences, and at most 7 are taken at once"),
        ((good, []), "There is no sentence yet"),
        ((good, "the red circle"), "must be a list of texts"),
        ((good, ["x" * 501]), "more than 500 characters"),
        ((good, SENTENCES, 2), "from 0 to 1"),
        ((None,), "There is no clip yet"),
        ((str(clips / "renamed.mp4"),), "renamed.mp4 cannot be decoded as a video"),
        ((str(clips / "long.mp4"),), "lasts 72.0 s, and at most 60 s are taken here"),
    ):
        with pytest.raises(gradio_client.exceptions.AppError, match=message):
            ask(*arguments)


def test_foreign_files_and_local_addresses_are_refused(ask, server):
    hits = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            hits.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as local:
        threading.Thread(target=local.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{local.server_port}/clip.mp4"
        for path in ("/etc/passwd", str(server[3]), address, address.replace("127.0.0.1", "localhost")):
            with pytest.raises(Exception):  # noqa: B017  gradio has several
                ask({"path": path, "meta": {"_type": "gradio.FileData"}})
        local.shutdown()
    assert not hits


def test_500_requests(server, clips, tmp_path):
    """A tenth of them bad, and among these three files made to end a decoder: the others are all answered, and memory
    stays. Four visitors ask at once, each with a client of its own: those that share one share a stream of answers,
    which it may close between a request and its answer."""
    videos = []
    for number in range(6):  # more than are kept open; each is asked about 80 times
        videos.append(tmp_path / f"{number}.mp4")
        write_video(videos[-1], np.random.default_rng(number).integers(0, 255, (2, 64, 64, 3), dtype=np.uint8), 4)
    poison = [clips / "bomb.mp4", tmp_path / "cut.mp4", tmp_path / "noise.mp4"]
    data = videos[0].read_bytes()
    poison[1].write_bytes(data[: len(data) // 2])
    poison[2].write_bytes(data[:40] + np.random.default_rng(0).bytes(5000))
    bad = [(str(path),) for path in poison] + [(str(clips / "renamed.mp4"),), (str(videos[0]), []), (None,)]
    process, logged = psutil.Process(server[1].pid), len(server[3].read_text())
    of_thread = threading.local()

    def begin() -> None:
        of_thread.ask = visitor(server[0], tmp_path)

    def request(number: int) -> str | None:
        """What went wrong, if anything did."""
        is_bad = number % 10 == 9
        arguments = bad[number // 10 % len(bad)] if is_bad else (str(videos[number // 80 % len(videos)]), SENTENCES)
        try:
            _, _, scores = of_thread.ask(*arguments)
        except Exception as error:
            return None if is_bad else f"{number}: {error!r}"
        return None if len(scores) == 2 else f"{number}: {scores}"

    with ThreadPoolExecutor(4, initializer=begin) as pool:
        assert not list(filter(None, pool.map(request, range(50))))
        before = process.memory_info().rss
        assert not list(filter(None, pool.map(request, range(50, 500))))
    assert process.is_running() and process.memory_info().rss < 1.1 * before
    assert "Traceback" not in server[3].read_text()[logged:]
