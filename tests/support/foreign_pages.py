"""Headers of browsers' requests, for a server that is known as 127.0.0.1:8080."""

OWN = "http://127.0.0.1:8080"
LINK = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
FRAME = {"Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "iframe"}
ALLOWED = [
    {},
    {"Origin": OWN},
    {"Sec-Fetch-Site": "same-origin", "Origin": OWN},
    {"Sec-Fetch-Site": "none"},
    {"Host": "localhost"},
    {"Host": "[::1]:8080"},
]
REFUSED = [
    {"Origin": "https://evil.example.com"},
    {"Origin": "null"},
    {"Origin": "http://["},
    {"Origin": "http://127.0.0.1:9999"},
    {"Origin": "http://localhost:8080"},
    {"Sec-Fetch-Site": "cross-site"},
    {"Sec-Fetch-Site": "same-site", "Origin": OWN},
    {"Sec-Fetch-Site": "cross-site", **LINK},
    {"Host": "evil.example.com:8080"},
    {"Host": "127.0.0.1.evil.example.com"},
    {"Host": "127.0.0.1@evil.example.com"},
    {"Host": "evil.example.com", "Origin": "http://evil.example.com"},
    {"Host": "127.0.0.1:8080#evil"},
]
