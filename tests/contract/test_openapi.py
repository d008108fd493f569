"""What the API says of itself."""

from __future__ import annotations

from server.app import create_app
from server.settings import Settings
from tests.services.serving import running


async def test_every_operation_says_the_one_form_of_its_errors(embedded: Settings) -> None:
    async with running(create_app(embedded)) as client:
        described = (await client.get("/api/v1/openapi.json")).json()

    operations = {
        f"{verb} {path}": operation["responses"]
        for path, item in described["paths"].items()
        if path.startswith("/api/v1/")
        for verb, operation in item.items()
    }
    forms = {
        name: responses["4XX"]["content"]["application/json"]["schema"]["$ref"]
        for name, responses in operations.items()
    }
    assert len(forms) > 10
    assert set(forms.values()) == {"#/components/schemas/Failure"}
    assert "HTTPValidationError" not in described["components"]["schemas"]
