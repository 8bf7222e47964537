"""Where the kernels are: the name of a reduction to the module that holds the function of that
name.
"""

MODULES = {
    "coordinate_median": "order_statistics",
    "trimmed_mean": "order_statistics",
    "winsorized_mean": "order_statistics",
    "mean_around_median": "nearest_values",
    "phocas": "nearest_values",
    "m_estimator": "m_estimator_kernel",
    "soft_truncation": "soft_truncation_kernel",
}
