"""Reads the samples of Prometheus text."""

from prometheus_client.parser import text_string_to_metric_families as parse_text


def samples(text, parse=parse_text):
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in parse(text)
        for sample in family.samples
    }
