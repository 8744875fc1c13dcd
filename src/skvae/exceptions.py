"""Errors and warnings of the package; each is also the built-in class a caller would expect."""


class ColumnError(ValueError):
    """A column of the data cannot be used as asked; names the column, the value and the remedy."""


class ColumnTypeError(ColumnError, TypeError):
    """A column holds objects that are neither numbers, text, truth values nor dates."""


class ConstantColumnWarning(UserWarning):
    """A column that was constant at fit, or followed another, and so is not modelled, holds another value now."""


class SamplingWarning(UserWarning):
    """Rows sampled under conditions rest on few latents."""


class ImageError(ValueError):
    """Images cannot be used as they are; names the file or image, the value and the remedy."""


class IdentifierWarning(UserWarning):
    """A column tells rows apart, as identifiers and free text do, so that there is nothing to learn of it."""


class TrainingError(RuntimeError):
    """Training broke down and could not recover; names the step, the term and the column."""


class LoadError(ValueError):
    """A saved model is damaged, incomplete or written by a newer version."""


class SourceError(ValueError):
    """A file cannot be read or written as a table; names the file, the line and what was expected."""


class SourceWarning(UserWarning):
    """A file is read, or written, otherwise than might be expected."""
