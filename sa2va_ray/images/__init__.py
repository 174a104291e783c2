"""Encoded image files to pixels: formats, DICOM, masks."""
