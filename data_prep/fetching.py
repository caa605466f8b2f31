"""Fetches images from the web in parallel, at a limited rate.

An image is stored only once it is complete and decodes.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import os
import threading
import time
from collections.abc import Callable, Iterable
from concurrent import futures
from pathlib import Path
from typing import NamedTuple

import requests
import urllib3
from absl import logging

from imcl_tf.data import images
from imcl_tf.data.manifest import image_path
from imcl_tf.files import replacing

_GONE = (404, 410)
_BUSY = (429, 503)
_TRANSIENT = (408, 425)  # and all above 499
# Flickr redirects requests for a removed image to one of this name.
_PLACEHOLDER = "photo_unavailable"
_LONGEST_PAUSE = 3600.0  # seconds; servers may ask for more


class Job(NamedTuple):
    """An image to fetch.

    Attributes:
      image_id: 16 hexadecimal digits.
      url: address of the image.
      size: expected number of bytes, as text; "" if unknown.
      md5: expected MD5 checksum in base64; "" if unknown.
    """

    image_id: str
    url: str
    size: str
    md5: str


class Outcome(NamedTuple):
    """A row of the manifest, see `imcl_tf.data.manifest`."""

    image_id: str
    status: str
    reason: str
    size: int


class Pace:
    """Limits the rate at which all threads together send requests."""

    def __init__(
        self,
        rate: float,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], bool | None] = time.sleep,
    ):
        """Makes a pace.

        Args:
          rate: requests per second; in T seconds at most rate T + 2 begin.
          clock: returns the time in seconds.
          sleep: waits for a number of seconds. It returns True if the program
            is stopping, which ends all waiting.
        """
        self._gap = 1 / rate
        self._clock, self._sleep = clock, sleep
        self._next = self._resume = clock()
        self._turn = threading.Lock()

    def wait(self):
        """Blocks until the next request may begin."""
        with self._turn:
            while (delay := max(self._next, self._resume) - self._clock()) > 0:
                if self._sleep(delay):
                    return
            self._next = max(self._next + self._gap, self._clock())

    def pause(self, seconds: float):
        """Delays all further requests by a number of seconds."""
        self._resume = max(self._resume, self._clock() + seconds)


class _Gone(Exception):
    """The server says that the image does not exist, or no server can."""


class _Refused(Exception):
    """The request failed, and a retry would fail too."""


class _Transient(Exception):
    """The request failed, and a retry may succeed."""


class _Stopped(Exception):
    """The program is ending."""


class Fetcher:
    """Fetches and checks images; may be called from several threads."""

    def __init__(
        self,
        out: str | os.PathLike,
        rate: float = 50.0,
        retries: int = 3,
        timeout: float = 20.0,
        backoff: float = 1.0,
    ):
        """Makes a fetcher.

        Args:
          out: directory of the images.
          rate: requests per second; retries count, redirects do not.
          retries: further requests after a transient failure.
          timeout: seconds without a byte after which a request fails.
          backoff: seconds before the first retry; they double with each
            further retry.
        """
        self._out = Path(out)
        self._stopping = threading.Event()
        self._pace = Pace(rate, sleep=self._stopping.wait)
        self._retries, self._timeout, self._backoff = retries, timeout, backoff
        self._local = threading.local()
        # Most threads wait for the network; decoding needs cores and memory.
        self._decoding = threading.BoundedSemaphore(os.cpu_count() or 1)

    def stop(self):
        """Ends all waiting; no further request begins."""
        self._stopping.set()

    def __call__(self, job: Job) -> Outcome:
        """Fetches an image to its place, unless a valid file is there already.

        Such a file without a row in the manifest is left by a program that was
        killed between writing the two.

        Raises:
          OSError: if the image cannot be written.
          ValueError: if the environment names a malformed proxy, which every
            request would fail by.
        """
        path = image_path(self._out, job.image_id)
        if path.is_file():
            outcome = self._checked(job, path.read_bytes())
            if outcome.status == "done":
                return outcome
            path.unlink()
        try:
            encoded = self._fetch(job.url)
        except _Gone as error:
            return Outcome(job.image_id, "missing", str(error), 0)
        except (_Refused, _Transient) as error:
            return Outcome(job.image_id, "failed", str(error), 0)
        outcome = self._checked(job, encoded)
        if outcome.status == "done":
            path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(path) as new:
                new.write_bytes(encoded)
        return outcome

    def _checked(self, job, encoded) -> Outcome:
        with self._decoding:
            seen = images.inspect(encoded)
        mismatch = _mismatch(job, encoded)
        problem = seen.problem or mismatch
        status = "corrupt" if problem else "done"
        if problem and seen.kind == "unknown" and (mismatch or not job.md5):
            # No image at all, but the page of a proxy or of a network that
            # wants a sign-in: it says nothing about the image.
            status = "failed"
        return Outcome(
            job.image_id, status, problem or seen.unusual, len(encoded)
        )

    def _fetch(self, url) -> bytes:
        attempt = 0
        while True:
            self._pace.wait()
            if self._stopping.is_set():
                raise _Stopped
            patience = self._backoff * 2**attempt
            try:
                return self._request(url, patience)
            except _Transient:
                if attempt == self._retries:
                    raise
            self._stopping.wait(patience)
            attempt += 1

    def _request(self, url, patience) -> bytes:
        self._check_address(url)
        try:
            with self._session.get(
                url, timeout=self._timeout, stream=True
            ) as response:
                self._check_answer(response, patience)
                return response.content
        except requests.exceptions.InvalidProxyURL as error:
            raise ValueError(
                "the environment (HTTP_PROXY, HTTPS_PROXY or ALL_PROXY) names "
                f"a malformed proxy: {error}"
            ) from error
        except ValueError as error:  # a redirect to a malformed URL, say
            raise _Refused(f"{type(error).__name__}: {error}") from error
        except (
            OSError,  # base class of the exceptions of requests
            http.client.HTTPException,
            urllib3.exceptions.HTTPError,
        ) as error:
            raise _Transient(type(error).__name__) from error

    def _check_address(self, url):
        """Raises `_Gone` for an address that no request can be sent to."""
        try:
            prepared = requests.Request("GET", url).prepare()
            self._session.get_adapter(prepared.url)
        except ValueError as error:
            raise _Gone(f"invalid address: {error}") from error

    def _check_answer(self, response, patience):
        code = response.status_code
        if code in _GONE:
            raise _Gone(f"HTTP {code}")
        if code in _BUSY:
            asked = urllib3.Retry().get_retry_after(response.raw)
            seconds = min(patience if asked is None else asked, _LONGEST_PAUSE)
            logging.log_every_n_seconds(
                logging.WARNING,
                "HTTP %d: pausing for %.0f s",
                10,
                code,
                seconds,
            )
            self._pace.pause(seconds)
        if code in (*_BUSY, *_TRANSIENT) or code >= 500:
            raise _Transient(f"HTTP {code}")
        if code != 200:
            raise _Refused(f"HTTP {code}")
        if _PLACEHOLDER in response.url:
            raise _Gone(f"redirected to {response.url}")

    @property
    def _session(self) -> requests.Session:
        """The session of this thread: sessions are not thread-safe."""
        if not hasattr(self._local, "session"):
            session = self._local.session = requests.Session()
            session.headers["User-Agent"] = "imcl_tf download"
            session.max_redirects = 5
        return self._local.session


def _mismatch(job, encoded) -> str | None:
    if job.size not in ("", str(len(encoded))):
        return f"expected {job.size} bytes, got {len(encoded)}"
    md5 = base64.b64encode(hashlib.md5(encoded).digest()).decode()
    return None if job.md5 in ("", md5) else "wrong MD5 checksum"


def fetch_all(
    jobs: Iterable[Job],
    fetch: Fetcher,
    record: Callable[[Outcome], None],
    parallel: int,
):
    """Fetches images with several threads, and reads a few jobs ahead.

    Args:
      jobs: images to fetch.
      fetch: fetches one of them; it is stopped at the end and after an error.
      record: called in this thread with every outcome.
      parallel: number of threads.
    """
    pool = futures.ThreadPoolExecutor(parallel)
    running = set()
    try:
        for job in jobs:
            running.add(pool.submit(fetch, job))
            if len(running) == 2 * parallel:
                done, running = futures.wait(
                    running, return_when=futures.FIRST_COMPLETED
                )
                for future in done:
                    record(future.result())
        for future in futures.as_completed(running):
            record(future.result())
    except KeyboardInterrupt:
        fetch.stop()
        logging.warning("stopping after the requests in progress")
        raise
    finally:
        fetch.stop()
        pool.shutdown(cancel_futures=True)
