"""The classes of transformers.js 4.3 that Transformers has, by the sessions (graphs) that each loads.

Read from `models/registry.js` and `models/session_config.js` of its 4.3.2, and compared with it by `clients/`.
"""

from __future__ import annotations

NAMES = {"Gemma3TextModel": "Gemma3Model"}
"""Class of Transformers to its name in transformers.js, where that is another class of Transformers."""
_CLASSES = {
    "model": """
        ASTForAudioClassification ASTModel AfmoeForCausalLM AfmoeModel AlbertForMaskedLM
        AlbertForQuestionAnswering AlbertForSequenceClassification AlbertModel ApertusForCausalLM ApertusModel
        ArceeForCausalLM ArceeModel BartForSequenceClassification BeitForImageClassification BeitModel
        BertForMaskedLM BertForQuestionAnswering BertForSequenceClassification BertForTokenClassification
        BertModel BloomForCausalLM BloomModel CHMv2ForDepthEstimation CLIPModel CLIPSegForImageSegmentation
        CLIPSegModel CamembertForMaskedLM CamembertForQuestionAnswering CamembertForSequenceClassification
        CamembertForTokenClassification CamembertModel ChineseCLIPModel ClapModel CodeGenForCausalLM
        CodeGenModel Cohere2ForCausalLM Cohere2Model CohereForCausalLM CohereModel ConvBertForMaskedLM
        ConvBertForQuestionAnswering ConvBertForSequenceClassification ConvBertForTokenClassification
        ConvBertModel ConvNextForImageClassification ConvNextModel ConvNextV2ForImageClassification
        ConvNextV2Model DFineForObjectDetection DFineModel DINOv3ConvNextModel DINOv3ViTModel
        DPTForDepthEstimation DPTModel DebertaForMaskedLM DebertaForQuestionAnswering
        DebertaForSequenceClassification DebertaForTokenClassification DebertaModel DebertaV2ForMaskedLM
        DebertaV2ForQuestionAnswering DebertaV2ForSequenceClassification DebertaV2ForTokenClassification
        DebertaV2Model DecisionTransformerModel DeepseekV3ForCausalLM DeepseekV3Model DeepseekV4ForCausalLM
        DeepseekV4Model DeiTForImageClassification DeiTModel DepthAnythingForDepthEstimation
        DepthProForDepthEstimation DetrForObjectDetection DetrForSegmentation DetrModel
        Dinov2ForImageClassification Dinov2Model Dinov2WithRegistersForImageClassification
        Dinov2WithRegistersModel DistilBertForMaskedLM DistilBertForQuestionAnswering
        DistilBertForSequenceClassification DistilBertForTokenClassification DistilBertModel DonutSwinModel
        EfficientNetForImageClassification EfficientNetModel ElectraForMaskedLM ElectraForQuestionAnswering
        ElectraForSequenceClassification ElectraForTokenClassification ElectraModel EmbeddingGemma2Model
        Ernie4_5ForCausalLM EsmForMaskedLM EsmForSequenceClassification EsmForTokenClassification EsmModel
        EuroBertForMaskedLM EuroBertForSequenceClassification EuroBertForTokenClassification EuroBertModel
        FalconForCausalLM FalconH1ForCausalLM FalconH1Model FalconModel GLPNForDepthEstimation GLPNModel
        GPT2LMHeadModel GPT2Model GPTBigCodeForCausalLM GPTBigCodeModel GPTJForCausalLM GPTJModel
        GPTNeoForCausalLM GPTNeoModel GPTNeoXForCausalLM GPTNeoXModel Gemma2ForCausalLM Gemma2Model
        Gemma3ForCausalLM Gemma3TextModel Gemma3nForCausalLM Gemma4ForCausalLM GemmaForCausalLM GemmaModel
        GlmForCausalLM GlmModel GlmMoeDsaForCausalLM GlmMoeDsaModel GptOssForCausalLM GptOssModel
        GraniteForCausalLM GraniteModel GraniteMoeHybridForCausalLM GraniteMoeHybridModel
        GroundingDinoForObjectDetection GroupViTModel HeliumForCausalLM HeliumModel HieraForImageClassification
        HieraModel HrmTextForCausalLM HrmTextModel HubertForCTC HubertForSequenceClassification HubertModel
        HunYuanDenseV1ForCausalLM HunYuanDenseV1Model IJepaForImageClassification IJepaModel Lfm2ForCausalLM
        Lfm2Model Lfm2MoeForCausalLM Lfm2MoeModel Lfm3ForCausalLM Lfm3Model Llama4ForCausalLM LlamaForCausalLM
        LlamaModel MBartForCausalLM MBartForSequenceClassification MPNetForMaskedLM MPNetForQuestionAnswering
        MPNetForSequenceClassification MPNetForTokenClassification MPNetModel MaskFormerForInstanceSegmentation
        MaskFormerModel MgpstrForSceneTextRecognition Ministral3ForCausalLM Ministral3Model MinistralForCausalLM
        MinistralModel Mistral4ForCausalLM Mistral4Model MistralForCausalLM MistralModel MobileBertForMaskedLM
        MobileBertForQuestionAnswering MobileBertForSequenceClassification MobileBertModel
        MobileNetV1ForImageClassification MobileNetV1Model MobileNetV2ForImageClassification
        MobileNetV2ForSemanticSegmentation MobileNetV2Model MobileViTForImageClassification MobileViTModel
        MobileViTV2ForImageClassification MobileViTV2Model ModernBertDecoderForCausalLM ModernBertDecoderModel
        ModernBertForMaskedLM ModernBertForSequenceClassification ModernBertForTokenClassification
        ModernBertModel MptForCausalLM MptModel NanoChatForCausalLM NanoChatModel NemotronHForCausalLM
        NemotronHModel NomicBertModel OPTForCausalLM OPTModel Olmo2ForCausalLM Olmo2Model Olmo3ForCausalLM
        Olmo3Model OlmoForCausalLM OlmoHybridForCausalLM OlmoHybridModel OlmoModel
        OpenAIPrivacyFilterForTokenClassification OpenAIPrivacyFilterModel OwlViTForObjectDetection OwlViTModel
        Owlv2ForObjectDetection Owlv2Model ParakeetForCTC PatchTSMixerForPrediction PatchTSMixerModel
        PatchTSTForPrediction PatchTSTModel Phi3ForCausalLM Phi3Model PhiForCausalLM PhiModel
        PvtForImageClassification PvtModel Qwen2ForCausalLM Qwen2Model Qwen2MoeForCausalLM Qwen2MoeModel
        Qwen3ForCausalLM Qwen3Model Qwen3MoeForCausalLM Qwen3MoeModel Qwen3NextForCausalLM Qwen3NextModel
        Qwen3_5ForCausalLM Qwen3_5MoeForCausalLM RTDetrForObjectDetection RTDetrModel RTDetrV2ForObjectDetection
        RTDetrV2Model ResNetForImageClassification ResNetModel RfDetrForObjectDetection RfDetrModel
        RoFormerForMaskedLM RoFormerForQuestionAnswering RoFormerForSequenceClassification
        RoFormerForTokenClassification RoFormerModel RobertaForMaskedLM RobertaForQuestionAnswering
        RobertaForSequenceClassification RobertaForTokenClassification RobertaModel
        SegformerForImageClassification SegformerForSemanticSegmentation SiglipModel SmolLM3ForCausalLM
        SmolLM3Model SolarOpenForCausalLM SolarOpenModel SpeechT5HifiGan SqueezeBertForMaskedLM
        SqueezeBertForQuestionAnswering SqueezeBertForSequenceClassification SqueezeBertModel
        StableLmForCausalLM StableLmModel Starcoder2ForCausalLM Starcoder2Model Swin2SRForImageSuperResolution
        Swin2SRModel SwinForImageClassification SwinModel TableTransformerForObjectDetection
        TableTransformerModel TrOCRForCausalLM UniSpeechForCTC UniSpeechForSequenceClassification UniSpeechModel
        UniSpeechSatForAudioFrameClassification UniSpeechSatForCTC UniSpeechSatForSequenceClassification
        UniSpeechSatModel VaultGemmaForCausalLM VaultGemmaModel ViTForImageClassification ViTMAEModel
        ViTMSNForImageClassification ViTMSNModel ViTModel VitMatteForImageMatting VitPoseForPoseEstimation
        VitsModel Wav2Vec2BertForCTC Wav2Vec2BertForSequenceClassification Wav2Vec2BertModel
        Wav2Vec2ForAudioFrameClassification Wav2Vec2ForCTC Wav2Vec2ForSequenceClassification Wav2Vec2Model
        WavLMForAudioFrameClassification WavLMForCTC WavLMForSequenceClassification WavLMForXVector WavLMModel
        XLMForQuestionAnswering XLMForSequenceClassification XLMForTokenClassification XLMModel
        XLMRobertaForMaskedLM XLMRobertaForQuestionAnswering XLMRobertaForSequenceClassification
        XLMRobertaForTokenClassification XLMRobertaModel XLMWithLMHeadModel YolosForObjectDetection YolosModel
        YoutuForCausalLM YoutuModel ZayaForCausalLM ZayaModel
    """,
    "text_model": """
        CLIPTextModel CLIPTextModelWithProjection ClapTextModelWithProjection SiglipTextModel
    """,
    "vision_model": """
        CLIPVisionModel CLIPVisionModelWithProjection SiglipVisionModel
    """,
    "audio_model": """
        ClapAudioModelWithProjection
    """,
    "encoder_model": """
        MimiEncoderModel
    """,
    "decoder_model": """
        MimiDecoderModel
    """,
    "encoder_model decoder_model_merged": """
        BartForConditionalGeneration BartModel BlenderbotForConditionalGeneration BlenderbotModel
        BlenderbotSmallForConditionalGeneration BlenderbotSmallModel CohereAsrForConditionalGeneration
        CohereAsrModel LongT5ForConditionalGeneration LongT5Model M2M100ForConditionalGeneration M2M100Model
        MBartForConditionalGeneration MBartModel MT5ForConditionalGeneration MT5Model MarianMTModel MarianModel
        MoonshineForConditionalGeneration SpeechT5ForSpeechToText SpeechT5ForTextToSpeech
        T5ForConditionalGeneration T5Model VisionEncoderDecoderModel WhisperForConditionalGeneration
        WhisperModel
    """,
    "encoder_model decoder_model": """
        DacModel MimiModel
    """,
    "embed_tokens decoder_model_merged vision_encoder": """
        Gemma3ForConditionalGeneration GlmOcrForConditionalGeneration Idefics3ForConditionalGeneration
        Lfm2VlForConditionalGeneration Lfm3VlForConditionalGeneration
        LightOnOcrForConditionalGeneration LlavaForConditionalGeneration LlavaOnevisionForConditionalGeneration
        Mistral3ForConditionalGeneration PaliGemmaForConditionalGeneration Qwen2VLForConditionalGeneration
        Qwen2_5_VLForConditionalGeneration Qwen3VLForConditionalGeneration Qwen3VLMoeForConditionalGeneration
        Qwen3_5ForConditionalGeneration Qwen3_5MoeForConditionalGeneration SmolVLMForConditionalGeneration
    """,
    "embed_tokens decoder_model_merged vision_encoder encoder_model": """
        Florence2ForConditionalGeneration
    """,
    "embed_tokens decoder_model_merged audio_encoder vision_encoder": """
        Gemma3nForConditionalGeneration Gemma4ForConditionalGeneration
    """,
    "embed_tokens decoder_model_merged audio_encoder": """
        GraniteSpeechForConditionalGeneration VoxtralForConditionalGeneration
        VoxtralRealtimeForConditionalGeneration
    """,
    "vision_encoder prompt_encoder_mask_decoder": """
        EdgeTamModel Sam2Model Sam3TrackerModel SamModel
    """,
    "text_encoder decoder_model_merged encodec_decode": """
        MusicgenForConditionalGeneration
    """,
}

_ENCODER_INPUTS = {
    "": "Gemma3 LightOnOcr Llava LlavaOnevision Mistral3 PaliGemma GraniteSpeech Voxtral",
    "image_grid_thw": "GlmOcr Lfm3Vl Qwen2VL Qwen2_5_VL Qwen3VL Qwen3VLMoe Qwen3_5 Qwen3_5Moe",
    "pixel_attention_mask": "Idefics3 SmolVLM",
    "pixel_attention_mask spatial_shapes": "Lfm2Vl",
    "image_position_ids input_features_mask": "Gemma4",
    "input_features_mask": "Gemma3n",
}
ENCODER_INPUTS: dict[str, tuple[str, ...]] = {
    f"{name}ForConditionalGeneration": ("pixel_values", "input_features", *inputs.split())
    for inputs, names in _ENCODER_INPUTS.items()
    for name in names.split()
}
"""Class of images or audio and text to the inputs that it passes its encoders (`forward_params`)."""

SESSIONS: dict[str, tuple[str, ...]] = {
    name: tuple(sessions.split()) for sessions, names in _CLASSES.items() for name in names.split()
}
"""Class to the graphs that transformers.js loads for it."""
