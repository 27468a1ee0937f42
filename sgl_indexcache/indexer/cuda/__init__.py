"""A Full layer on CUDA: our kernels over SGLang's page-packed fp8 index keys."""
