"""Opens and reads tables with pyarrow.dataset. Columns are read only when they are asked for."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.csv as pacsv
import pyarrow.dataset as ds

from deployments.errors import DataError
from graphs.data.sources import Format, Source

_BLOCK = 8 << 20
"""Bytes from which the types of a text file are inferred."""

_NAMES: dict[Format, str] = {"parquet": "Parquet", "csv": "CSV", "json": "JSON lines"}
_DELIMITERS = ",;\t|"
_WRONG_COLUMN = re.compile(r"CSV column #(\d+)")
_ARROWS_PREFIX = re.compile(r"^.*Could not open .* input source '.*': (Invalid: )?")


@dataclass(slots=True)
class Reader:
    """A table that is not read yet: a dataset, or a table in memory."""

    file: str
    """Its name in sentences."""
    schema: pa.Schema
    _source: Source | None = None
    _table: pa.Table | None = None
    _format: ds.FileFormat | None = None

    @classmethod
    def of_table(cls, table: pa.Table, file: str) -> Reader:
        """A table in memory."""
        return cls(file, table.schema, _table=table)

    @classmethod
    def open(cls, source: Source, text: Collection[str]) -> Reader:
        """A table in files. `text`: columns that a CSV file gives as text, whatever they look like.

        Raises:
            DataError: it can't be read; names the file and the reason.
        """
        file_format = _format_of(source, newlines=False)
        schema = _inspected(source, file_format)
        if source.format == "csv":
            for i, each in enumerate(schema):
                if each.name in text:
                    schema = schema.set(i, each.with_type(pa.string()))
        return cls(source.shown, schema, _source=source, _format=file_format)

    def read(self, names: Sequence[str]) -> pa.Table:
        """The columns `names`, all rows.

        Raises:
            DataError: as `open`.
        """
        if self._table is not None:
            return self._table.select(list(names))
        assert self._source is not None
        while True:
            try:
                dataset = _factory(self._source, self._format).finish(self.schema)
                return dataset.to_table(columns=list(names))
            except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
                if not self._retry(str(error)):
                    raise _unreadable(self._source, error) from None

    def _retry(self, error: str) -> bool:
        """Whether to read again, after a text file had something else further on than at its beginning."""
        assert self._source is not None
        if self._source.format == "csv" and (found := _WRONG_COLUMN.search(error)):
            name = self._header()[int(found[1])]
            at = self.schema.get_field_index(name)
            kind = self.schema.field(at).type
            if pa.types.is_string(kind):
                return False
            wider = pa.float64() if pa.types.is_integer(kind) else pa.string()
            self.schema = self.schema.set(at, self.schema.field(at).with_type(wider))
            return True
        if self._source.format == "csv" and "Expected" in error and not self._quoted_newlines:
            self._format = _format_of(self._source, newlines=True)
            return True
        if self._source.format == "json":
            times = [i for i, each in enumerate(self.schema) if pa.types.is_timestamp(each.type)]
            for i in times:
                self.schema = self.schema.set(i, self.schema.field(i).with_type(pa.string()))
            return bool(times)
        return False

    @property
    def _quoted_newlines(self) -> bool:
        return bool(self._format.parse_options.newlines_in_values)  # type: ignore[union-attr]

    def _header(self) -> list[str]:
        assert self._source is not None
        names: list[str] = self._format.inspect(self._source.files[0], self._source.filesystem).names  # type: ignore[union-attr]
        return names


def _factory(source: Source, file_format: ds.FileFormat) -> ds.FileSystemDatasetFactory:
    options = ds.FileSystemFactoryOptions(
        partition_base_dir=source.base, partitioning=ds.HivePartitioning.discover(), exclude_invalid_files=False
    )
    return ds.FileSystemDatasetFactory(source.filesystem, list(source.files), file_format, options)


def _inspected(source: Source, file_format: ds.FileFormat) -> pa.Schema:
    """The columns of all parts: a part may lack some, or have them in a narrower type."""
    try:
        return _factory(source, file_format).inspect(promote_options="permissive", fragments=None)
    except (pa.ArrowTypeError, pa.ArrowInvalid) as error:
        if "expected columns" in str(error).lower() and not file_format.parse_options.newlines_in_values:
            file_format = _format_of(source, newlines=True)
            return _inspected(source, file_format)
        raise _unreadable(source, error) from None
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise _unreadable(source, error) from None


def _unreadable(source: Source, error: Exception) -> DataError:
    reason = _ARROWS_PREFIX.sub("", " ".join(str(error).split()))
    remedy = ""
    if source.format == "json":
        remedy = "; it should hold one JSON object per line"
    elif "UTF8" in reason:
        remedy = "; write it as UTF-8"
    elif "Expected" in reason and "columns" in reason:
        remedy = "; each row should have as many fields as the header, and text with the delimiter in quotes"
    elif "Unable to merge" in reason or "incompatible types" in reason:
        remedy = "; its parts disagree about a column"
    return DataError(f"{source.shown} is not readable {_NAMES[source.format]}: {reason[:300]}{remedy}")


def _format_of(source: Source, newlines: bool) -> ds.FileFormat:
    if source.format == "parquet":
        return ds.ParquetFileFormat()
    if source.format == "json":
        return ds.JsonFileFormat(read_options=_json_read_options())
    return ds.CsvFileFormat(
        parse_options=pacsv.ParseOptions(delimiter=_delimiter(source), newlines_in_values=newlines),
        read_options=pacsv.ReadOptions(block_size=_BLOCK),
    )


def _json_read_options() -> object:
    from pyarrow.json import ReadOptions

    return ReadOptions(block_size=_BLOCK)


def _delimiter(source: Source) -> str:
    """The one that the header has most of."""
    try:
        with source.filesystem.open_input_stream(source.files[0], compression="detect") as stream:
            header = stream.read(1 << 16).split(b"\n", 1)[0].decode("utf-8", "replace")
    except (pa.ArrowException, OSError) as error:
        raise _unreadable(source, error) from None
    return max(_DELIMITERS, key=header.count)
