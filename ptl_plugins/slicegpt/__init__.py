"""SliceGPT: the residual stream is rotated into its principal directions, and the least go.

Ashkboos et al., "SliceGPT: Compress Large Language Models by Deleting Rows and Columns", 2024.
The result is no architecture that transformers knows: its checkpoints carry their own modelling
code (`configuration_ptl_sliced`, `modeling_ptl_sliced`), which imports nothing of PTL.
"""

MODEL_TYPE = "ptl_sliced"
"""`model_type` of a sliced checkpoint."""
