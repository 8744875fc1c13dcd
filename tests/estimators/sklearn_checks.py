"""scikit-learn's checks: which of them fail, and those that its `check_estimator` does not call by itself."""

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

EXPECTED_TO_FAIL = {
    "check_sample_weight_equivalence_on_dense_data": (
        "a weighted row is drawn into as many minibatches as any other; only its gradient is larger"
    ),
}


def every_check(*estimators):
    """Parametrises a test by estimators and all checks of them, of which those above must fail."""
    return parametrize_with_checks(
        list(estimators), expected_failed_checks=lambda estimator: EXPECTED_TO_FAIL, xfail_strict=True
    )


# Some checks fit on a frame and transform an array or the other way round, of which scikit-learn warns.
of_frames_and_arrays = pytest.mark.filterwarnings("ignore:X (does not have valid|has) feature names")

CHECKS_OF_FRAMES = [
    "check_set_output_transform",
    "check_set_output_transform_pandas",
    "check_set_output_transform_polars",
    "check_global_output_transform_pandas",
    "check_global_set_output_transform_polars",
    "check_transformer_get_feature_names_out",
    "check_transformer_get_feature_names_out_pandas",
    "check_dataframe_column_names_consistency",
    "check_inplace_ensure_writeable",
]
