import re
import stat
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from serve.errors import SettingsError
from serve.gateway import keys
from serve.gateway.keys import Keys

ROOT = Path(__file__).parents[2]


def test_a_key_is_shown_once_and_only_its_hash_is_kept(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "keys.json"
    token = keys.add(path, "dock-3")
    assert len(token) >= 43  # 256 bits in base64
    assert token not in path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    (key,) = keys.read(path)
    assert (key.name, key.sha256) == ("dock-3", keys.hash_token(token))
    assert key.created.endswith("Z")


def test_no_two_keys_are_the_same(tmp_path: Path) -> None:
    tokens = {keys.add(tmp_path / "keys.json", f"key {number}") for number in range(50)}
    assert len(tokens) == 50


def test_several_keys_are_valid_at_once_and_a_removed_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    old, new = keys.add(path, "old"), keys.add(path, "new")
    running = Keys(path)
    assert (running.name_of(old), running.name_of(new)) == ("old", "new")
    keys.remove(path, "old")
    assert (running.name_of(old), running.name_of(new)) == (None, "new")


@pytest.mark.parametrize("token", ["", "bw_", "bw_x", "\ud800", "ä" * 100, "0" * 64])
def test_what_is_no_key_is_none(tmp_path: Path, token: str) -> None:
    path = tmp_path / "keys.json"
    keys.add(path, "a")
    assert Keys(path).name_of(token) is None
    assert Keys(path).name_of(keys.read(path)[0].sha256) is None  # who has read the file has no key


def test_without_a_file_no_key_is_required_until_one_exists_and_then_for_ever(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    running = Keys(path)
    assert not running.required()
    keys.add(path, "a")
    assert running.required()
    path.unlink()
    assert running.required()
    assert running.names() == ()


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"keys": 3}', '{"keys": [{"name": "a"}]}', '{"keys": ["a"]}', "\x00"]
)
def test_a_file_that_holds_no_keys_is_an_error_not_an_open_door(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    with pytest.raises(SettingsError, match=re.escape(str(path))):
        Keys(path)


@pytest.mark.parametrize("name", ["", " ", "x" * 65, "a\nb"])
def test_a_key_needs_a_name_that_can_be_read(tmp_path: Path, name: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(repr(name[:64]))):
        keys.add(tmp_path / "keys.json", name)
    assert not (tmp_path / "keys.json").exists()


def test_a_name_is_taken_once(tmp_path: Path) -> None:
    keys.add(tmp_path / "keys.json", "a")
    with pytest.raises(SettingsError, match="'a'"):
        keys.add(tmp_path / "keys.json", "a")
    with pytest.raises(SettingsError, match=r"'b' .*: a$"):
        keys.remove(tmp_path / "keys.json", "b")


def test_keys_that_are_added_at_the_same_time_are_all_kept(tmp_path: Path) -> None:
    path = tmp_path / "keys" / "api-keys.json"
    with ThreadPoolExecutor(8) as pool:
        tokens = list(pool.map(partial(keys.add, path), [f"station-{number}" for number in range(24)]))
    assert {keys.find_name(token, keys.read(path)) for token in tokens} == {f"station-{n}" for n in range(24)}


def test_a_right_is_stored_with_its_key_and_files_without_rights_stay_valid(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    keys.add(path, "station")
    assert "may" not in path.read_text()  # as an older gateway reads it
    running = Keys(path)
    keys.add(path, "anna", (keys.RECOUNT,))
    assert [running.may(name, keys.RECOUNT) for name in ("station", "anna", "nobody", "")] == [
        False,
        True,
        False,
        False,
    ]
    keys.remove(path, "anna")
    assert not running.may("anna", keys.RECOUNT)
    path.write_text(path.read_text().replace('"name"', '"may": "recount", "name"'))
    with pytest.raises(SettingsError, match="may is 'recount'"):
        Keys(path)
