-- Beside `mlflow`: who may do what, by infra/mlflow/basic_auth.ini.
CREATE DATABASE mlflow_auth OWNER mlflow;
