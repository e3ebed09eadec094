//! The greeter that go-kratos' helloworld serves, for the examples and the tests. Knows nothing of the registry.

#![expect(missing_docs, clippy::pedantic, reason = "generated from the protocol, which says what there is to say")]

tonic::include_proto!("helloworld");
