"""What botocore's errors say to a person: one line, what to do, and nothing that a process or a file said."""

import traceback

import pytest
from botocore import exceptions

from bucketry.bucket.aws import _Translated
from bucketry.errors import BucketryError, Denied, Invalid, Unavailable


def _answered(status: int, code: str, message: str) -> exceptions.ClientError:
    said = {"Error": {"Code": code, "Message": message}, "ResponseMetadata": {"HTTPStatusCode": status}}
    return exceptions.ClientError(said, "AssumeRole")


@pytest.mark.parametrize(
    ("error", "kind", "told"),
    [
        (exceptions.ProfileNotFound(profile="p"), Invalid, "AWS profile p is neither in .*/.aws/config nor"),
        (exceptions.ConfigParseError(path="/x/config", error="geheim"), Invalid, "AWS file /x/config is not"),
        (
            exceptions.PartialCredentialsError(provider="x", cred_var="aws_secret_access_key"),
            Invalid,
            "p: aws_secret_access_key is missing",
        ),
        (
            exceptions.InfiniteLoopConfigError(source_profile="q", visited_profiles=["p", "q"]),
            Invalid,
            "p: Infinite loop",
        ),
        (exceptions.UnauthorizedSSOTokenError(), Denied, "run aws sso login --profile p"),
        (exceptions.SSOTokenLoadError(error_msg="geheim"), Denied, "run aws sso login --profile p"),
        (
            exceptions.TokenRetrievalError(provider="sso", error_msg="geheim"),
            Denied,
            "run aws sso login --profile p",
        ),
        (_answered(403, "AccessDenied", "not allowed"), Denied, r"AssumeRole: HTTP 403 \(AccessDenied: not"),
        (_answered(400, "ExpiredTokenException", "expired"), Denied, "AssumeRole: HTTP 400"),
        (_answered(500, "InternalError", "later"), Unavailable, "AssumeRole: HTTP 500"),
        (
            exceptions.CredentialRetrievalError(provider="custom-process", error_msg="geheim"),
            Unavailable,
            "p: credential_process failed; run its command by hand",
        ),
        (
            exceptions.CredentialRetrievalError(provider="assume-role", error_msg="geheim"),
            Unavailable,
            "p: the role of the profile failed$",
        ),
        (exceptions.MetadataRetrievalError(error_msg="geheim"), Unavailable, "does not answer"),
        (
            exceptions.EndpointConnectionError(endpoint_url="https://u:geheim@sts.example.com/?geheim"),
            Unavailable,
            "cannot reach https://sts.example.com$",
        ),
        (
            exceptions.ProxyConnectionError(proxy_url="http://u:geheim@proxy:1", error="geheim"),
            Unavailable,
            "cannot reach http://proxy:1$",
        ),
        (FileNotFoundError(2, "No such file or directory", "/x/token"), Invalid, "p: /x/token: No such file"),
        (exceptions.UnknownCredentialError(name="geheim"), Denied, "p: UnknownCredentialError"),
        (ValueError("geheim"), Denied, "p: ValueError"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_errors(error: Exception, kind: type[BucketryError], told: str) -> None:
    """Each by what its reader will do."""
    with pytest.raises(kind, match=told) as caught, _Translated("p"):
        raise error
    assert type(caught.value) is kind
    assert str(caught.value).isprintable()
    assert "geheim" not in "".join(traceback.format_exception_only(caught.value))
    assert caught.value.__suppress_context__


def test_what_is_ours_stays() -> None:
    """Errors of our own, and those that end a program, pass as they are."""
    for error in (Denied("ours"), KeyboardInterrupt()):
        with pytest.raises(type(error)) as caught, _Translated("p"):
            raise error
        assert caught.value is error
