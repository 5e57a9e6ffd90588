"""The app with the product, for separate processes: `uvicorn tests.product.main:app`."""

from app.config import get_settings
from tests.product import create_app

app = create_app(get_settings())
