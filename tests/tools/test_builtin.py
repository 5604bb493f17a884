"""The five built-in tools together."""

import inspect

from tools.builtin import built_in_tools


def test_the_five_tools_come_typed_and_documented_in_their_order() -> None:
    tools = built_in_tools(
        weather_geocoding_url="http://127.0.0.1:9",
        weather_forecast_url="http://127.0.0.1:9",
        search_backend="auto",
        search_url=None,
        stock_url=None,
    )
    arguments = {
        tool.__name__: {name: kind.annotation for name, kind in signature(tool).items()}
        for tool in tools
    }
    assert list(arguments.items()) == [
        ("get_weather", {"city": str}),
        ("calculate", {"expression": str}),
        ("get_time", {"timezone": str}),
        ("search_web", {"query": str}),
        ("get_stock_price", {"symbol": str}),
    ]
    assert all(tool.__doc__ and "Args:" in tool.__doc__ for tool in tools)


def signature(tool: object) -> dict[str, inspect.Parameter]:
    """Return a tool's parameters by name."""
    assert callable(tool)
    return dict(inspect.signature(tool).parameters)
