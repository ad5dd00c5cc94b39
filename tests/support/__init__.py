"""What tests share: imported as ``support``, as ``tests`` itself is not a package."""
