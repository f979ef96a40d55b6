"""An application of somebody else's: `APPLICATION=examples.hello:app make serve`."""

from fastapi import FastAPI

app = FastAPI()


@app.get("/hello/{name}")
async def hello(name: str, greeting: str = "Hello") -> dict[str, str]:
    """Greet somebody."""
    return {"message": f"{greeting}, {name}!"}
