"""Does a real browser show the report whole, on light and on dark ground, wide and narrow?"""

import html
import json
import pathlib
import re
import shutil
import subprocess
from typing import Any

import pytest

from tests.dnallm_jax.evaluation.test_report import written

CHROMIUM = next(
    (
        found
        for name in ("chromium", "chromium-browser", "google-chrome")
        if (found := shutil.which(name))
    ),
    None,
)


@pytest.fixture(scope="module")
def markup(tmp_path_factory: pytest.TempPathFactory) -> str:
    return written(tmp_path_factory.mktemp("report") / "report.html")


PROBE = """<script>
window.onload = () => {
  const box = (e) => e.getBoundingClientRect();
  const root = document.documentElement;
  const seen = {
    overflow: root.scrollWidth - root.clientWidth,
    pictures: [...document.querySelectorAll("svg")].map((e) => [box(e).width, box(e).height]),
    shapes: [...document.querySelectorAll("svg")].map((e) => e.querySelectorAll("path,use").length),
    ground: getComputedStyle(document.body).backgroundColor,
    ink: getComputedStyle(document.querySelector("h1")).color,
    small: [...document.querySelectorAll("svg text")].filter((e) => box(e).height < 7).length,
  };
  const out = document.createElement("pre");
  out.id = "seen";
  out.textContent = JSON.stringify(seen);
  document.body.append(out);
};
</script></body>"""


def seen_by_a_browser(
    text: str, folder: pathlib.Path, *, width: int, dark: bool = False
) -> dict[str, Any]:
    """Measures of the laid-out page, taken by a script that is added to a copy of it."""
    if CHROMIUM is None:
        pytest.skip("no chromium on this machine: the report was not shown to a real browser")
    (folder / "probe.html").write_text(text.replace("</body>", PROBE), encoding="utf-8")
    command = [
        CHROMIUM,
        *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", "--disable-component-update", "--disable-sync"),
        f"--user-data-dir={folder / 'profile'}",
        f"--blink-settings=preferredColorScheme={0 if dark else 1}",
        f"--window-size={width},2000",
        "--dump-dom",
        (folder / "probe.html").as_uri(),
    ]
    shown = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    return json.loads(html.unescape(re.search(r'<pre id="seen">(.*?)</pre>', shown)[1]))


@pytest.mark.parametrize(("width", "dark"), [(1200, False), (500, True)])
def test_a_real_browser_shows_it_whole(
    markup: str, tmp_path: pathlib.Path, width: int, dark: bool
) -> None:
    seen = seen_by_a_browser(markup, tmp_path, width=width, dark=dark)
    assert seen["overflow"] <= 0
    assert len(seen["pictures"]) == 9
    assert all(w > 300 and h > 150 for w, h in seen["pictures"])
    assert all(count > 10 for count in seen["shapes"])
    assert seen["small"] == 0
    ground = [int(v) for v in re.findall(r"\d+", seen["ground"])[:3]]
    assert (max(ground) < 60) == dark
    assert seen["ground"] != seen["ink"]


def test_a_page_wider_than_the_window_would_be_seen(markup: str, tmp_path: pathlib.Path) -> None:
    wide = markup.replace("</main>", '<div style="width:3000px">x</div></main>')
    assert seen_by_a_browser(wide, tmp_path, width=1200)["overflow"] > 1000
