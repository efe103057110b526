"""Routes that hosting platforms require: SageMaker, Vertex AI and KServe."""
