"""The explorer in a real browser: Chromium, JupyterLab, notebook 16, a mouse and a keyboard.

The notebook is cut after the cell that shows the explorer; nbval runs the rest of it. A screenshot
is kept in build/browser/.
"""

import ast
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import nbformat
import pytest

ROOT = Path(__file__).resolve().parents[1]
SHOTS = ROOT / "build" / "browser"
PATIENCE = 120  # [s] for what takes 20 on a quiet machine
BROWSERS = ("chromium", "chromium-browser", "google-chrome")
SETTINGS = {
    # A cell that scrolled out of sight would take its widgets along.
    "notebook-extension/tracker": '{"windowingMode": "none", "recordTiming": false}',
    "apputils-extension/notification": '{"fetchNews": "false", "checkForUpdates": false}',
}


def missing() -> str:
    """What is not installed here; empty where all is."""
    lacking = [name for name in ("jupyterlab", "selenium") if not importlib.util.find_spec(name)]
    if not any(map(shutil.which, BROWSERS)):
        lacking.append(BROWSERS[0])
    if not shutil.which("chromedriver"):
        lacking.append("chromedriver")
    return ", ".join(lacking)


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Address of a JupyterLab with a copy of the notebook; its settings are its own."""
    folder = tmp_path_factory.mktemp("lab")
    notebook = nbformat.read(ROOT / "notebooks" / "16_explorer.ipynb", as_version=4)
    ends = [k for k, cell in enumerate(notebook.cells) if "explore(" in cell.source]
    notebook.cells = notebook.cells[: ends[0] + 1]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    nbformat.write(notebook, folder / "16_explorer.ipynb")
    for name, text in SETTINGS.items():
        path = folder / "settings" / "@jupyterlab" / f"{name}.jupyterlab-settings"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += [f"--ServerApp.port={port}", "--ServerApp.ip=127.0.0.1"]
    command += [f"--ServerApp.root_dir={folder}", "--IdentityProvider.token="]
    command += [f"--LabApp.user_settings_dir={folder / 'settings'}"]
    command += [f"--LabApp.workspaces_dir={folder / 'workspaces'}", "--expose-app-in-browser"]
    own = {f"JUPYTER_{x}_DIR": str(folder / x.lower()) for x in ("CONFIG", "DATA", "RUNTIME")}
    paths = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    env = os.environ | own | {"IPYTHONDIR": str(folder / "ipython"), "PYTHONPATH": paths}
    env |= {"CUDA_VISIBLE_DEVICES": "", "TQDM_DISABLE": "1"}
    log = (folder / "server.log").open("w")
    process = subprocess.Popen(
        command, env=env, stdout=log, stderr=log, cwd=folder, start_new_session=True
    )
    try:
        until(lambda: answers(f"http://127.0.0.1:{port}/api"), "JupyterLab answers")
        yield f"http://127.0.0.1:{port}"
    finally:
        os.killpg(process.pid, signal.SIGTERM)  # its kernels with it
        process.wait(20)
        log.close()


@pytest.fixture
def browser():
    from selenium import webdriver
    from selenium.common.exceptions import SessionNotCreatedException

    failures = []
    for binary in filter(None, map(shutil.which, BROWSERS)):
        options = webdriver.ChromeOptions()
        for word in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu"):
            options.add_argument(word)
        options.add_argument("--window-size=1500,1050")
        options.binary_location = binary
        service = webdriver.ChromeService(executable_path=shutil.which("chromedriver"))
        try:
            driver = webdriver.Chrome(options=options, service=service)
        except SessionNotCreatedException as failure:  # the driver is another browser's
            failures.append(f"{binary}: {failure.msg}")
            continue
        yield driver
        driver.quit()
        return
    pytest.fail("no browser starts: " + "; ".join(failures))


def answers(address: str) -> bool:
    try:
        return urllib.request.urlopen(address, timeout=2).status == 200
    except OSError:
        return False


def until(holds, what: str, patience: float = PATIENCE):
    """The first true answer of `holds()`."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        answer = holds()
        if answer:
            return answer
        time.sleep(0.1)
    pytest.fail(f"waited {patience} s in vain until {what}")


class Page:
    """The explorer as it stands in the browser."""

    def __init__(self, driver):
        self.driver = driver

    def all(self, css: str):
        return self.driver.find_elements("css selector", f".jp-OutputArea {css}")

    def button(self, text: str):
        found = [b for b in self.all("button.jupyter-button") if b.text == text]
        assert found, f"no button {text!r}"
        return found[0]

    def click(self, element):
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'nearest'})", element)
        element.click()

    def fold(self, title: str):
        """Open a section."""
        heads = self.driver.find_elements("css selector", ".jupyter-widget-Collapse-header")
        self.click(next(h for h in heads if h.text.strip() == title))

    def picture(self) -> str:
        return self.all("img.widget-image")[0].get_attribute("src")

    def status(self) -> str:
        # In one go: the line may be written anew between two questions.
        lines = "[...document.querySelectorAll('.jp-OutputArea .widget-html-content > div')]"
        return self.driver.execute_script(f"return {lines}.map(e => e.innerText).join(' ')")

    def pose_text(self) -> str:
        return self.all("textarea")[0].get_property("value")

    def shot(self, name: str):
        SHOTS.mkdir(parents=True, exist_ok=True)
        picture = self.all("img.widget-image")[0]
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", picture)
        time.sleep(0.3)
        self.driver.save_screenshot(str(SHOTS / f"{name}.png"))


@pytest.fixture
def page(server, browser):
    """Notebook 16, run, with its explorer in sight."""
    browser.get(f"{server}/doc/tree/16_explorer.ipynb?reset")
    ready = "return !!(window.jupyterapp && document.querySelector('.jp-Notebook .jp-Cell'))"
    until(lambda: browser.execute_script(ready), "the notebook is open")
    idle = (
        "const p = window.jupyterapp.shell.currentWidget;"
        "return !!(p && p.sessionContext && p.sessionContext.session"
        " && p.sessionContext.session.kernel"
        " && p.sessionContext.session.kernel.connectionStatus === 'connected')"
    )
    until(lambda: browser.execute_script(idle), "a kernel is connected")
    browser.execute_script("window.jupyterapp.commands.execute('notebook:run-all-cells')")
    there = Page(browser)
    until(lambda: there.all("img.widget-image"), "the explorer is shown")
    until(lambda: there.picture().startswith("blob:"), "its picture is there")
    return there


@pytest.mark.skipif(bool(missing()), reason=f"not installed here: {missing()}")
def test_a_hand_moves_registers_and_reads_the_pose(page):
    from selenium.webdriver import ActionChains, Keys

    page.shot("1_opened")
    before = page.picture()
    theta = page.all("input[type=number]")[0]  # the first row: cranial
    theta.send_keys(Keys.CONTROL + "a")
    theta.send_keys("6.5" + Keys.ENTER)
    until(lambda: page.picture() != before, "a number moved the C-arm")
    handle = page.all(".noUi-handle")[1]  # the second row: LAO
    before = page.picture()
    drag = ActionChains(page.driver).click_and_hold(handle)
    for _ in range(6):
        drag = drag.move_by_offset(-2, 0).pause(0.1)
    drag.release().perform()
    until(lambda: page.picture() != before, "a slider moved the C-arm")
    page.shot("2_moved")
    page.fold("Pose as text, file")
    until(lambda: "theta=6.5000" in page.pose_text(), "the pose is that of the number")
    phi = float(page.pose_text().split("phi=")[1].split(",")[0])
    assert phi < 30, "the slider went to the left, from 30 degrees"
    page.click(page.button("Register from here"))
    until(lambda: "converged" in page.status(), "the registration has ended")
    page.shot("3_registered")
    # What notebook 16 made: theta 8, phi 20, gamma -5 degrees, b = (6, -9, 12) mm.
    first = page.pose_text().splitlines()[0]
    call = ast.parse(first).body[0].value
    named = {k.arg: ast.literal_eval(k.value) for k in call.keywords}
    assert [named[n] for n in ("theta", "phi", "gamma")] == pytest.approx([8, 20, -5], abs=0.5)
    assert list(named["b"]) == pytest.approx([6, -9, 12], abs=2.0)
    page.click(page.button("Undo"))
    until(lambda: "theta=6.5000" in page.pose_text(), "the pose before is back")
    page.fold("Landmarks")
    until(lambda: page.button("pose from landmarks").is_displayed(), "a section folds out")
    page.click(page.button("pose from landmarks"))
    until(lambda: "expected three or more" in page.status(), "a failure is told")
