//! peftbench-models
