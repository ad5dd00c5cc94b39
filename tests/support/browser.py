"""A script for pages in a browser that records what their content security policy blocks."""

VIOLATIONS = """
    window.violations = [];
    document.addEventListener("securitypolicyviolation", event => {
        violations.push(`${event.effectiveDirective} ${event.blockedURI}`);
    });
"""
