"""The autoscaling policy. Start with policy.py: it decides when a stage gets another replica or gives one back, from
arrival_rate, latency_model and observations (input), capacity (need), stabilization, provisioning and resource_budget
(limits), with the standard library alone. serve_adapter.py passes the decisions to Ray Serve, and alone imports ray.
"""
