//! The greeter that go-kratos' helloworld serves, for the examples and the tests. Knows nothing of the registry.

tonic::include_proto!("helloworld");
