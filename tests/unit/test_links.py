import pytest

from serve.errors import FieldError
from serve.links import Link, parse


@pytest.mark.parametrize(
    ("text", "bucket", "key"),
    [
        ("s3://aft-vbi-pds/bin-images/1.jpg", "aft-vbi-pds", "bin-images/1.jpg"),
        ("https://aft-vbi-pds.s3.amazonaws.com/bin-images/1.jpg", "aft-vbi-pds", "bin-images/1.jpg"),
        ("https://aft-vbi-pds.s3.us-east-1.amazonaws.com/bin-images/1.jpg", "aft-vbi-pds", "bin-images/1.jpg"),
        ("https://aft-vbi-pds.s3-us-west-2.amazonaws.com/1.jpg", "aft-vbi-pds", "1.jpg"),
        ("https://s3.amazonaws.com/aft-vbi-pds/bin-images/1.jpg", "aft-vbi-pds", "bin-images/1.jpg"),
        ("https://s3.us-west-2.amazonaws.com/aft-vbi-pds/bin-images/1.jpg", "aft-vbi-pds", "bin-images/1.jpg"),
        ("https://s3.us-gov-west-1.amazonaws.com/bins/1.jpg", "bins", "1.jpg"),
        ("https://my.dotted.bucket.s3.amazonaws.com/a", "my.dotted.bucket", "a"),
        ("https://bins.s3.amazonaws.com/a%20b/%C3%A9%2Fc.jpg", "bins", "a b/é/c.jpg"),
        ("s3://bins/a%20b", "bins", "a%20b"),
        ("s3://bins/what?#is.jpg", "bins", "what?#is.jpg"),
        ("s3://bins//double//slash", "bins", "/double//slash"),
        ("s3://bins/...", "bins", "..."),
        (f"s3://bins/{'k' * 1024}", "bins", "k" * 1024),
    ],
)
def test_a_link_is_parsed_into_bucket_and_key(text: str, bucket: str, key: str) -> None:
    assert parse(text) == Link(bucket, key)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "bins/1.jpg",
        "http://bins.s3.amazonaws.com/1.jpg",
        "ftp://bins.s3.amazonaws.com/1.jpg",
        "file:///etc/passwd",
        "https://s3.evil.com/bins/1.jpg",
        "https://bins.s3.amazonaws.com.evil.com/1.jpg",
        "https://evil.com/bins.s3.amazonaws.com/1.jpg",
        "https://bins.s3.amazonaws.com@evil.com/1.jpg",
        "https://user:password@bins.s3.amazonaws.com/1.jpg",
        "https://bins.s3.amazonaws.com:8443/1.jpg",
        "https://bins.s3xamazonaws.com/1.jpg",
        "https://s3xus-east-1.amazonaws.com/bins/1.jpg",
        "https://169.254.169.254/latest/meta-data",
        "https://[::1]/bins/1.jpg",
        "https://[broken/bins/1.jpg",
        "https://bins.s3.amazonaws.com",
        "https://bins.s3.amazonaws.com/",
        "https://s3.amazonaws.com/bins",
        "https://s3.amazonaws.com/bins/",
        "https://bins.s3.amazonaws.com/1.jpg?X-Amz-Signature=abc",
        "https://bins.s3.amazonaws.com/1.jpg?versionId=2",
        "https://bins.s3.amazonaws.com/1.jpg#part",
        "https://bins.s3.amazonaws.com/%ff.jpg",
        "s3://",
        "s3:///1.jpg",
        "s3://bins",
        "s3://bins/",
        "s3:bins/1.jpg",
        "s3:/bins/1.jpg",
        "s3:xxbins/1.jpg",
        "S3://bins/1.jpg",
        " s3://bins/1.jpg",
        "s3://b/1.jpg",
        "s3://UPPER/1.jpg",
        "s3://bins@evil/1.jpg",
        "s3://bins:80/1.jpg",
        "s3://-bins/1.jpg",
        "s3://arn:aws:s3:::bins/1.jpg",
        f"s3://{'b' * 64}/1.jpg",
        f"s3://bins/{'k' * 1025}",
        f"s3://bins/{'é' * 513}",
        "s3://bins/../other/1.jpg",
        "s3://bins/a/./1.jpg",
        "https://bins.s3.amazonaws.com/%2e%2e/other/1.jpg",
        "https://s3.amazonaws.com/bins/..%2Fother/1.jpg",
    ],
)
def test_every_other_address_is_refused(text: str) -> None:
    with pytest.raises(FieldError, match="the link"):
        parse(text)
