-- PostgreSQL's container reads this only once, when its volume is empty.
create extension if not exists pg_trgm;
create database mlflow;
create database mlflow_accounts;
