"""The manifest of an archive: what it promises for each form of the network."""

from dataclasses import replace

import pytest

from serve.errors import ArchiveError
from serve.manifest import INT8_MODEL, AcceptedForm, Calibration, Form, Manifest, check_listed, parse_manifest
from tests.small_archives import FILES, manifest

INT8, FP32 = ((0.6, 0.4),), ((0.7, 0.3),)


def accepted(form: Form, golden: tuple[tuple[float, ...], ...]) -> AcceptedForm:
    calibration = Calibration(1.5, {"1": (0.1, 0.2), "2": (0.3,)}, golden)
    return AcceptedForm(form=form, photos_per_s=10.0, accuracy=0.5, calibration=calibration)


def of_before() -> Manifest:
    """A manifest of before forms were measured: int8 for CPUs, and what a GPU answers."""
    exact = {"temperature": 1.0, "scores": {}, "golden": FP32}
    return parse_manifest(manifest(FILES, cpu_model=INT8_MODEL, exact=exact))


def with_forms() -> Manifest:
    forms = (accepted(Form.INT8, INT8), accepted(Form.FP32, FP32))
    return replace(of_before(), forms=forms, processor="some kind", exact=forms[1].calibration)


def test_a_manifest_is_read_as_it_was_written() -> None:
    assert parse_manifest(with_forms().to_json().encode()) == with_forms()
    assert parse_manifest(of_before().to_json().encode()) == of_before()


def test_a_golden_photo_may_get_the_answer_of_the_form_that_says_it_answered() -> None:
    assert with_forms().accepted_answers(0, "int8") == INT8
    assert with_forms().accepted_answers(0, "fp32") == with_forms().accepted_answers(0, "gpu") == FP32
    assert with_forms().accepted_answers(0, "bf16") == ()


def test_where_the_form_is_not_known_the_answer_of_any_form_is_right() -> None:
    assert set(with_forms().accepted_answers(0)) == {(0.5, 0.5), *INT8, *FP32}
    assert set(of_before().accepted_answers(0)) == {(0.5, 0.5), *FP32}


def test_a_manifest_of_before_forms_were_measured_names_none() -> None:
    assert (of_before().forms, of_before().processor) == ((), "")


@pytest.mark.parametrize(
    "forms", [3, [3], [{}], [{"form": "int4"}], {"int8": {}}, [{"form": "int8", "photos_per_s": "fast"}]]
)
def test_forms_that_cannot_be_read_are_damage(forms: object) -> None:
    with pytest.raises(ArchiveError, match="damaged"):
        parse_manifest(manifest(FILES, forms=forms))


def test_a_form_whose_file_is_not_listed_is_damage() -> None:
    files = dict.fromkeys([*FILES, INT8_MODEL], "0")
    check_listed(replace(with_forms(), files=files))
    with pytest.raises(ArchiveError, match=INT8_MODEL):
        check_listed(replace(with_forms(), files=dict.fromkeys(FILES, "0"), cpu_model="model.onnx"))
