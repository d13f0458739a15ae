"""A camera in the network: serves one client an RTSP stream in real time, and prints its port.

    python rtsp_server.py FRAMES FPS

Frame number n is gray, 3 n bright. The session is that of RFC 2326, with RTP inside the TCP connection (section 10.12);
the frames are H.264 in an MPEG-2 transport stream, payload type 33 of RFC 3551.
"""

import socket
import sys
import threading
import time

import av
import numpy as np

DESCRIPTION = "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=frames\r\nt=0 0\r\nm=video 0 RTP/AVP 33\r\na=control:track\r\n"


def send_frames(port: int, number: int, fps: int) -> None:
    """RTP packets to a local port, each frame when it is due."""
    with av.open(f"rtp://127.0.0.1:{port}", "w", format="rtp_mpegts") as container:
        options = {"tune": "zerolatency", "g": "5"}
        stream = container.add_stream("libx264", rate=fps, options=options)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        start = time.monotonic()
        for index in range(number):
            picture = np.full((48, 64, 3), 3 * index, np.uint8)
            time.sleep(max(0, start + index / fps - time.monotonic()))
            container.mux(stream.encode(av.VideoFrame.from_ndarray(picture)))
        container.mux(stream.encode())


def answer(request: str) -> str:
    """The answer to one request, before the stream begins."""
    method, number = request.split()[0], request.split("CSeq:")[1].split()[0]
    status, more, body = "200 OK", "", ""
    if method == "OPTIONS":
        more = "Public: DESCRIBE, SETUP, PLAY, TEARDOWN\r\n"
    elif method == "DESCRIBE":
        body, more = DESCRIPTION, f"Content-Type: application/sdp\r\nContent-Length: {len(DESCRIPTION)}\r\n"
    elif "RTP/AVP/TCP" in request:
        more = "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\nSession: 1\r\n"
    elif method == "SETUP":
        status = "461 Unsupported Transport"
    return f"RTSP/1.0 {status}\r\nCSeq: {number}\r\n{more}\r\n{body}"


def main(number: int, fps: int) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(type=socket.SOCK_DGRAM) as packets:
        packets.bind(("127.0.0.1", 0))
        packets.settimeout(2)  # nothing more comes
        print(server.getsockname()[1], flush=True)
        client, _ = server.accept()
        with client, client.makefile("rb") as requests:
            method = b""
            while method != b"PLAY":
                lines = [line.decode() for line in iter(requests.readline, b"\r\n")]
                method = lines[0].split()[0].encode()
                client.sendall(answer("".join(lines)).encode())
            port = packets.getsockname()[1]
            threading.Thread(target=send_frames, args=(port, number, fps), daemon=True).start()
            try:
                while True:
                    packet = packets.recv(65536)
                    client.sendall(b"$\0" + len(packet).to_bytes(2, "big") + packet)
            except TimeoutError:
                pass


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
