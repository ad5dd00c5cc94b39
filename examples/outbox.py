"""A transactional outbox: an order and its event are committed together, or neither is.

The shop keeps Resonant's tables in its own database and gives ``enqueue`` its own connection. A crash at any line leaves
both the order and its event, or neither::

    python examples/outbox.py shop.db
    RESONANT_DATABASE_URL=sqlite:///shop.db resonant status

With an asynchronous engine (PostgreSQL with asyncpg), call ``await connection.run_sync(place_order, ...)``.
"""

import sys

from sqlalchemy import Column, Connection, Integer, MetaData, Table, Text, create_engine, func, insert, select

from resonant import Event, create_schema, enqueue

ENDPOINT = "warehouse"

shop = MetaData()
orders = Table(
    "orders",
    shop,
    Column("number", Integer, primary_key=True),
    Column("article", Text, nullable=False),
    Column("quantity", Integer, nullable=False),
)


class OutOfStock(Exception):
    """The shop's own error; it rolls back the order together with its event."""


def place_order(connection: Connection, number: int, article: str, quantity: int) -> None:
    """Store an order and its event in the transaction of this connection, which the caller commits."""
    order = {"number": number, "article": article, "quantity": quantity}
    connection.execute(insert(orders), order)
    # The id is derived from the order, so a repeated call stores one event.
    event = Event(id=f"order-{number}-placed", type="shop.order.placed", source="/shop", data=order)
    enqueue(connection, event, ENDPOINT)
    if quantity > 100:  # noqa: PLR2004 - the example's stock
        raise OutOfStock(f"order {number}: not enough in stock: {article}")


def main(path: str) -> None:
    """Place two orders that succeed and one that fails; print what is stored."""
    engine = create_engine(f"sqlite:///{path}")
    with engine.begin() as connection:
        create_schema(connection)
    shop.create_all(engine)
    with engine.connect() as connection:
        first = 1 + (connection.scalar(select(func.max(orders.c.number))) or 0)
    for number, quantity in enumerate((1, 1_000, 2), start=first):
        try:
            with engine.begin() as connection:
                place_order(connection, number, "lamp", quantity)
        except OutOfStock as error:
            sys.stdout.write(f"refused: {error}\n")
        else:
            sys.stdout.write(f"placed: order {number}\n")
    engine.dispose()


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "shop.db")
